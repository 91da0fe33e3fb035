import json
import urllib.error
import urllib.request
import uuid

lead = {
    "token": "demo",
    "tour_request": {
        "requestor_name": "Jane Doe",
        "requestor_email": "jane@example.com",
        "message": "Is 4B still free?",
    },
}
request = urllib.request.Request(
    "http://127.0.0.1:8080/api/v1/website_leads",
    json.dumps(lead).encode(),
    {"Content-Type": "application/json", "Idempotency-Key": str(uuid.uuid4())},
)
try:
    with urllib.request.urlopen(request, timeout=30) as answer:
        print("lead", json.load(answer)["id"])
except urllib.error.HTTPError as error:
    print(error.code, json.load(error)["error"], "Retry-After:", error.headers["Retry-After"])
