// The page of the request log: a list of the requests as they arrive, and the details of one of them.

const $ = (selector) => document.querySelector(selector);
const api = async (path, method = "GET", body = undefined) => {
  const answer = await fetch(`/sandbox/api/${path}`, {
    method, body: body && JSON.stringify(body), headers: body ? {"Content-Type": "application/json"} : {},
  });
  const value = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(value.error), {status: answer.status});
  return value;
};

// Return an element with these attributes and this content: text and other elements.
const make = (name, attributes = {}, ...inside) => {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== undefined) element.setAttribute(key, value);
  }
  element.append(...inside.filter((one) => one !== null && one !== undefined && one !== ""));
  return element;
};

const pretty = (text) => {
  try { return JSON.stringify(typeof text === "string" ? JSON.parse(text) : text, null, 2); } catch { return text; }
};
const block = (text) => make("pre", {tabindex: "0"}, text || "(nothing)");
const headers = (pairs) => block(pairs.map(([name, value]) => `${name}: ${value}`).join("\n"));
const part = (title, ...inside) => make("section", {}, make("h3", {}, title), ...inside);
const fold = (title, ...inside) => make("details", {}, make("summary", {}, title), ...inside);
const status = (request) => {
  const kind = request.status === null ? "none" : String(request.status)[0];
  return make("span", {class: `status s${kind}`}, request.status ?? "hung up");
};

let last = 0;
let era = null;
let chosen = null;
let following = true;  // show each new request, until the user chooses an older one

const refusal = ({answer}) => {
  try { const {error} = JSON.parse(answer); return error?.human_message ?? error ?? ""; } catch { return ""; }
};

function addRequest(request) {
  last = request.number;
  $("#empty").hidden = true;
  const said = request.diagnosis.map(({says}) => says);
  const row = make("button", {type: "button", id: `request-${request.number}`, onclick: () => choose(request.number)},
    make("span", {class: "when"}, request.at.slice(11, 19)), status(request),
    make("span", {class: "what"}, `${request.method} ${request.path}`),
    make("span", {class: "said"}, said[0] ?? (request.lead_id ? `lead ${request.lead_id}` : refusal(request)),
      said.length > 1 ? ` (and ${said.length - 1} more)` : ""));
  $("#requests").prepend(make("li", {value: request.number}, row));
}

function choose(number) {
  following = number === last;
  return show(number);
}

async function show(number) {
  chosen = number;
  for (const row of document.querySelectorAll("#requests button")) {
    row.setAttribute("aria-current", String(row.id === `request-${number}`));
  }
  const request = await api(`requests/${number}`);
  if (chosen !== number) return;
  $("#detail").replaceChildren(...[
    make("h2", {}, `Request ${request.number} `, status(request), ` ${request.ms} ms`),
    request.diagnosis.length
      ? part("Diagnosis", make("ul", {class: "diagnosis"}, ...request.diagnosis.map(({code, says}) => make("li", {title: code}, says))))
      : part("Diagnosis", make("p", {}, refusal(request) || "Nothing to remark.")),
    part("Request", make("p", {}, `${request.method} ${request.path}`), fold("Headers", headers(request.headers)),
      block(pretty(request.body)),
      request.body_bytes > new Blob([request.body]).size ? make("p", {}, `… ${request.body_bytes} bytes in all`) : null),
    part("Answer", fold("Headers", headers(Object.entries(request.answer_headers))), block(pretty(request.answer))),
    ...request.mails.map(showMail), ...request.partner_calls.map(showCall),
    request.stored && !request.mails.length
      ? part("Mail", make("p", {}, whyNoMail(request.stored)), make("button", {type: "button", onclick: () => show(number)}, "Look again"))
      : null,
    request.stored ? part(`Stored as lead ${request.lead_id}`, fold("All of it", block(pretty(request.stored)))) : null,
  ].filter(Boolean));
}

const whyNoMail = (stored) => {
  const mail = stored.deliveries.find(({kind}) => kind === "email");
  return mail ? `None yet: ${mail.state}${mail.reason ? `, ${mail.reason}` : ""}.` : "None.";
};

const showMail = (mail) => part(`Mail to ${mail.to.join(", ")}`, make("p", {}, make("strong", {}, mail.subject)),
  make("iframe", {src: `/sandbox/mails/${mail.number}.html`, title: "The mail as it looks", sandbox: ""}),
  fold("Text", block(mail.text)), mail.invitation ? fold("Invitation", block(mail.invitation)) : null,
  fold("Raw", block(mail.raw)));

const showCall = (call) => part("Call of June Homes", make("p", {}, `answered ${call.answered}`),
  fold("Headers", headers(Object.entries(call.headers))), block(pretty(call.body)));

async function showFacts() {
  const index = await api("");
  $("#facts").replaceChildren(
    make("dt", {}, "POST leads to"), make("dd", {}, make("code", {}, index.leads_url)),
    ...index.buildings.flatMap((building) => [
      make("dt", {}, building.name), make("dd", {}, "token ", make("code", {}, building.tokens.join(" ")),
        building.website_urls.length ? ` from pages at ${building.website_urls.join(", ")}` : "")]));
  showClock(index.clock);
  showFaults(index.faults);
}

const showClock = ({now, frozen}) => {
  $("#now").textContent = `${now.slice(0, 19).replace("T", " ")} UTC${frozen ? ", frozen" : ""}`;
  $("#freeze").textContent = frozen ? "Go on" : "Freeze";
  $("#freeze").dataset.freeze = String(!frozen);
};
const showFaults = (faults) => {
  $("#coming").textContent = faults.map(({on, what, next, share}) =>
    `${on}: ${what} ${next ? `× ${next}` : `for ${share * 100} %`}`).join(", ");
};

$("#faults").addEventListener("submit", async (event) => {
  event.preventDefault();
  const {on, what, next} = Object.fromEntries(new FormData(event.target));
  try {
    showFaults((await api("faults", "POST", {on, what, next: Number(next)})).faults);
  } catch (error) { $("#coming").textContent = error.message; }
});
$("#no-faults").addEventListener("click", async () => showFaults((await api("faults", "DELETE")).faults));
$("#freeze").addEventListener("click", async ({target}) => showClock(await api("clock", "POST", {freeze: target.dataset.freeze === "true"})));
for (const button of document.querySelectorAll("[data-advance]")) {
  button.addEventListener("click", async () => showClock(await api("clock", "POST", {advance: Number(button.dataset.advance)})));
}
$("#reset").addEventListener("click", async () => {
  if (!confirm("Forget every lead, mail, fault and building but the first?")) return;
  await api("reset", "POST", {});
  location.reload();
});

async function follow() {
  for (;;) {
    try {
      const found = await api(`requests?after=${last}&wait=25`);
      if (era !== null && era !== found.era) location.reload();  // the sandbox was reset
      era = found.era;
      for (const request of found.requests) {
        addRequest(request);
        if (following) show(request.number);
      }
      showFacts();
    } catch (error) {
      if (error.status !== 404) await new Promise((done) => setTimeout(done, 1000));
    }
  }
}

showFacts();
follow();
