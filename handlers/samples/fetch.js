// In a page of the building's website, whose origin is registered with it.
async function sendLead(fields) {
  const answer = await fetch("http://127.0.0.1:8080/api/v1/website_leads", {
    method: "POST",
    headers: {
      "Content-Type": "application/json",
      "Idempotency-Key": crypto.randomUUID(),  // one for each filled form: keep it for a retry
    },
    body: JSON.stringify({token: "demo", tour_request: fields}),
  });
  if (answer.status === 429 || answer.status === 503) {
    throw new Error(`try again in ${answer.headers.get("Retry-After")} s`);
  }
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error);
  return body.id;
}

sendLead({requestor_name: "Jane Doe", requestor_email: "jane@example.com", message: "Is 4B still free?"})
  .then((id) => console.log(`lead ${id}`), (error) => console.error(error.message));
