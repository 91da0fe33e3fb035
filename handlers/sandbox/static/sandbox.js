// Owns the request log of the sandbox: shows each attempt as it comes, and all that came of it.

const $ = (selector) => document.querySelector(selector);
const api = async (path, method = "GET", body = undefined) => {
  const answer = await fetch(`/sandbox/api/${path}`, {
    method, body: body && JSON.stringify(body), headers: body ? {"Content-Type": "application/json"} : {},
  });
  const value = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(value.error), {status: answer.status});
  return value;
};

// An element of this name, with attributes, and what is in it: text and other elements.
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
const status = (attempt) => {
  const kind = attempt.status === null ? "none" : String(attempt.status)[0];
  return make("span", {class: `status s${kind}`}, attempt.status ?? "hung up");
};

let last = 0;
let era = null;
let chosen = null;
let following = true;  // the newest, until another is chosen

const refusal = ({answer}) => {
  try { const {error} = JSON.parse(answer); return error?.human_message ?? error ?? ""; } catch { return ""; }
};

function addAttempt(attempt) {
  last = attempt.number;
  $("#empty").hidden = true;
  const said = attempt.diagnosis.map(({says}) => says);
  const row = make("button", {type: "button", id: `attempt-${attempt.number}`, onclick: () => choose(attempt.number)},
    make("span", {class: "when"}, attempt.at.slice(11, 19)), status(attempt),
    make("span", {class: "what"}, `${attempt.method} ${attempt.path}`),
    make("span", {class: "said"}, said[0] ?? (attempt.lead_id ? `lead ${attempt.lead_id}` : refusal(attempt)),
      said.length > 1 ? ` (and ${said.length - 1} more)` : ""));
  $("#attempts").prepend(make("li", {value: attempt.number}, row));
}

function choose(number) {
  following = number === last;
  return show(number);
}

async function show(number) {
  chosen = number;
  for (const row of document.querySelectorAll("#attempts button")) {
    row.setAttribute("aria-current", String(row.id === `attempt-${number}`));
  }
  const attempt = await api(`requests/${number}`);
  if (chosen !== number) return;
  $("#detail").replaceChildren(...[
    make("h2", {}, `Attempt ${attempt.number} `, status(attempt), ` ${attempt.ms} ms`),
    attempt.diagnosis.length
      ? part("Diagnosis", make("ul", {class: "diagnosis"}, ...attempt.diagnosis.map(({code, says}) => make("li", {title: code}, says))))
      : part("Diagnosis", make("p", {}, refusal(attempt) || "Nothing to remark.")),
    part("Request", make("p", {}, `${attempt.method} ${attempt.path}`), fold("Headers", headers(attempt.headers)),
      block(pretty(attempt.body)),
      attempt.body_bytes > new Blob([attempt.body]).size ? make("p", {}, `… ${attempt.body_bytes} bytes in all`) : null),
    part("Answer", fold("Headers", headers(Object.entries(attempt.answer_headers))), block(pretty(attempt.answer))),
    ...attempt.mails.map(showMail), ...attempt.partner_calls.map(showCall),
    attempt.stored && !attempt.mails.length
      ? part("Mail", make("p", {}, whyNoMail(attempt.stored)), make("button", {type: "button", onclick: () => show(number)}, "Look again"))
      : null,
    attempt.stored ? part(`Stored as lead ${attempt.lead_id}`, fold("All of it", block(pretty(attempt.stored)))) : null,
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
        building.website_url ? ` from pages at ${building.website_url}` : "")]));
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
      if (era !== null && era !== found.era) location.reload();  // it was reset
      era = found.era;
      for (const attempt of found.requests) {
        addAttempt(attempt);
        if (following) show(attempt.number);
      }
      showFacts();
    } catch (error) {
      if (error.status !== 404) await new Promise((done) => setTimeout(done, 1000));
    }
  }
}

showFacts();
follow();
