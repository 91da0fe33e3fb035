// Buttons of the API reference: copy a sample, and in the sandbox run it.

const FIELDS = {requestor_name: "Jane Doe", requestor_email: "jane@example.com", message: "Is 4B still free?"};

// Return the body of the request that each sample makes, in the given media type.
function body(mediaType, token) {
  if (mediaType === "application/json") return JSON.stringify({token, tour_request: FIELDS});
  const fields = Object.entries(FIELDS).map(([name, value]) => [`tour_request[${name}]`, value]);
  return new URLSearchParams([["token", token], ...fields]).toString();
}

for (const sample of document.querySelectorAll(".sample")) {
  const copy = sample.querySelector(".copy");
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(sample.querySelector("code").textContent);
    copy.textContent = "Copied";
  });
  const run = sample.querySelector(".run");
  run?.addEventListener("click", async () => {
    const {mediaType, token} = run.dataset;
    const answer = await fetch("/api/v1/website_leads", {
      method: "POST", headers: {"Content-Type": mediaType}, body: body(mediaType, token),
    });
    sample.querySelector("output").textContent = `${answer.status} ${await answer.text()}`;
  });
}
