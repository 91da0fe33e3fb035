import {randomUUID} from "node:crypto";

const answer = await fetch("http://127.0.0.1:8080/api/v1/website_leads", {
  method: "POST",
  headers: {"Content-Type": "application/json", "Idempotency-Key": randomUUID()},
  body: JSON.stringify({
    token: "demo",
    tour_request: {requestor_name: "Jane Doe", requestor_email: "jane@example.com", message: "Is 4B still free?"},
  }),
});
const body = await answer.json();
if (answer.ok) console.log("lead", body.id);
else console.error(answer.status, body.error, "Retry-After:", answer.headers.get("Retry-After"));
