curl -sS http://127.0.0.1:8080/api/v1/website_leads \
  -H 'Content-Type: application/json' \
  -H 'Idempotency-Key: a-key-for-each-filled-form' \
  -d '{
    "token": "demo",
    "tour_request": {
      "requestor_name": "Jane Doe",
      "requestor_email": "jane@example.com",
      "message": "Is 4B still free?"
    }
  }'
