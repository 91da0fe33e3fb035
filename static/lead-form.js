// Owns the form for building websites: <script src="…/static/lead-form.js" data-token="…" defer></script>
//
// The script puts <lead-form> where it stands; or write the element yourself. Attributes (data-… on the script):
//   token            the building's token (required)
//   fields           which to show, in this order: name email phone unit slot message sms (email always is)
//   units            "2A, 4B, Studio": a list to choose from instead of a free text
//   time-zone        the building's, like America/New_York: whose days and hours the tour is chosen from
//   slot-days, slot-hours   how many days ahead (14), from and to which hour ("9-18")
//   sms-text         the text of the consent
//   listing-source, listing-id   where the renter comes from
//   lang             en or es; the page's own if not given
//   action           where leads are POSTed to; beside this script if not given
// Events, for analytics: lead-form:view, :start, :submit, :retry, :success (detail.id), :error (detail.message).
// It may be themed by CSS variables (--lead-form-accent, -radius, -font, -gap) and ::part(field|input|button|status).

const script = document.currentScript;
const KEY = "lead-form:";
const TRIES = 6;
const LONGEST_WAIT = 60;

const WORDS = {
  en: {
    name: "Name", email: "E-mail", phone: "Phone", unit: "Unit", message: "Message", any: "Any",
    slot: "Tour", day: "Day", time: "Time", none: "No tour", zone: "Times are the building's own ({zone}).",
    sms: "I agree to be texted about this inquiry. Message and data rates may apply. Reply STOP to end.",
    send: "Send", sending: "Sending …", again: "That did not work. Trying again in {s} s …", required: "required",
    done: "Thank you! We will be in touch soon.", bad: "Please enter an e-mail address.",
    failed: "It could not be sent. What you wrote is still here; please try again.",
  },
  es: {
    name: "Nombre", email: "Correo electrónico", phone: "Teléfono", unit: "Unidad", message: "Mensaje", any: "Cualquiera",
    slot: "Visita", day: "Día", time: "Hora", none: "Sin visita", zone: "Las horas son las del edificio ({zone}).",
    sms: "Acepto recibir mensajes de texto sobre esta consulta. Pueden aplicarse tarifas. Responda STOP para terminar.",
    send: "Enviar", sending: "Enviando …", again: "No funcionó. Se intentará de nuevo en {s} s …", required: "obligatorio",
    done: "¡Gracias! Nos pondremos en contacto pronto.", bad: "Escriba un correo electrónico.",
    failed: "No se pudo enviar. Lo que escribió sigue aquí; inténtelo de nuevo.",
  },
};

const STYLE = `
:host { display: block; font: var(--lead-form-font, inherit); max-width: 32rem; }
form, fieldset { display: grid; gap: var(--lead-form-gap, .8rem); border: 0; margin: 0; padding: 0; min-width: 0; }
label, legend { display: block; font-weight: 600; margin: 0 0 .2rem; padding: 0; }
input, select, textarea, button { font: inherit; width: 100%; box-sizing: border-box; padding: .55rem;
  border: 1px solid #767676; border-radius: var(--lead-form-radius, .3rem); background: #fff; color: #1a1a1a; }
:focus-visible { outline: 3px solid var(--lead-form-accent, #0b57d0); outline-offset: 1px; }
button { background: var(--lead-form-accent, #0b57d0); border-color: transparent; color: #fff; font-weight: 600; cursor: pointer; }
button[aria-disabled=true] { opacity: .6; cursor: progress; }
.two { display: grid; grid-template-columns: 1fr 1fr; gap: .5rem; }
.check { display: grid; grid-template-columns: auto 1fr; gap: .5rem; align-items: start; }
.check input { width: 1.2rem; height: 1.2rem; } .check label { font-weight: 400; margin: 0; }
.hint { font-size: .9em; margin: .2rem 0 0; }
.bad { color: #b3261e; margin: .2rem 0 0; } [role=status] { min-height: 1.4em; margin: 0; }`;

// The page's query string and referrer, as they were when the visit began.
function origin() {
  let first = {};
  try {
    first = JSON.parse(sessionStorage.getItem(KEY + "origin")) ?? {};
    const utm = new URLSearchParams([...new URLSearchParams(location.search)].filter(([name]) => name.startsWith("utm_")));
    if (`${utm}`) first.utm = `${utm}`;
    if (!("referrer" in first)) first.referrer = document.referrer.startsWith(location.origin) ? "" : document.referrer;
    sessionStorage.setItem(KEY + "origin", JSON.stringify(first));
  } catch { /* without a storage it is known for this page alone */ }
  const all = new URLSearchParams(first.utm);
  if (first.referrer) all.set("referrer", first.referrer);
  return `${all}`;
}

const wait = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

class LeadForm extends HTMLElement {
  connectedCallback() {
    if (this.shadowRoot) return;
    const language = (this.getAttribute("lang") || document.documentElement.lang || "en").slice(0, 2).toLowerCase();
    this.language = WORDS[language] ? language : "en";
    this.words = WORDS[this.language];
    origin();  // the visit's, from its first page on
    this.attachShadow({mode: "open"});
    const sheet = new CSSStyleSheet();  // not a <style>: a strict CSP would refuse that
    sheet.replaceSync(STYLE);
    this.shadowRoot.adoptedStyleSheets = [sheet];
    this.build();
    this.tell("view");
  }

  tell(what, detail = {}) {
    this.dispatchEvent(new CustomEvent(`lead-form:${what}`, {bubbles: true, composed: true, detail}));
  }

  build() {
    const wanted = (this.getAttribute("fields") || "name email phone unit slot message sms").split(/[\s,]+/);
    if (!wanted.includes("email")) wanted.unshift("email");
    this.form = make("form", {novalidate: "", lang: this.language});
    for (const field of wanted) if (this[`${field}Field`]) this.form.append(this[`${field}Field`]());
    this.button = make("button", {part: "button"}, this.words.send);
    this.status = make("p", {role: "status", part: "status", tabindex: "-1"});
    this.form.append(this.button, this.status);
    this.form.addEventListener("submit", (event) => { event.preventDefault(); this.submit(); });
    this.form.addEventListener("input", () => {
      if (!this.started) this.tell("start");
      this.started = true;
      this.keep();
    });
    this.shadowRoot.append(this.form);
    this.restore();
  }

  field(name, control, hint) {
    const id = control.id = name;
    control.setAttribute("part", "input");
    if (hint) control.setAttribute("aria-describedby", `${id}-hint`);
    return make("div", {part: "field"}, make("label", {for: id}, this.words[name] + (control.required ? ` (${this.words.required})` : "")),
      control, hint && make("p", {id: `${id}-hint`, class: "hint"}, hint));
  }

  nameField() { return this.field("name", make("input", {name: "requestor_name", autocomplete: "name", maxlength: 1000})); }
  emailField() {
    return this.field("email", make("input", {name: "requestor_email", type: "email", autocomplete: "email", required: "", maxlength: 1000}));
  }
  phoneField() { return this.field("phone", make("input", {name: "requestor_phone", type: "tel", autocomplete: "tel", maxlength: 1000})); }
  messageField() { return this.field("message", make("textarea", {name: "message", rows: 4, maxlength: 10000})); }
  unitField() {
    const units = (this.getAttribute("units") || "").split(",").map((unit) => unit.trim()).filter(Boolean);
    if (!units.length) return this.field("unit", make("input", {name: "unit_preference", maxlength: 1000}));
    return this.field("unit", make("select", {name: "unit_preference"}, make("option", {value: ""}, this.words.any),
      ...units.map((unit) => make("option", {}, unit))));
  }

  // The days and hours of the building's own clock: the server takes a time without an offset as that.
  slotField() {
    const zone = this.getAttribute("time-zone") || undefined;
    const [from, to] = (this.getAttribute("slot-hours") || "9-18").split("-").map(Number);
    const date = new Intl.DateTimeFormat("en-CA", {timeZone: zone, year: "numeric", month: "2-digit", day: "2-digit"});
    const spoken = new Intl.DateTimeFormat(this.language, {timeZone: "UTC", weekday: "long", day: "numeric", month: "long"});
    const clock = new Intl.DateTimeFormat(this.language, {timeZone: "UTC", hour: "numeric", minute: "2-digit"});
    const today = new Date(`${date.format(new Date())}T00:00Z`).getTime();
    const day = make("select", {id: "day", name: "day", part: "input"}, make("option", {value: ""}, this.words.none));
    for (let ahead = 1; ahead <= Number(this.getAttribute("slot-days") || 14); ahead++) {
      const then = new Date(today + ahead * 864e5);
      day.append(make("option", {value: then.toISOString().slice(0, 10)}, spoken.format(then)));
    }
    const time = make("select", {id: "time", name: "time", part: "input"});
    for (let half = 2 * from; half <= 2 * to; half++) {
      const then = new Date(half * 18e5);
      time.append(make("option", {value: then.toISOString().slice(11, 16)}, clock.format(then)));
    }
    return make("fieldset", {part: "field"}, make("legend", {}, this.words.slot), make("div", {class: "two"},
      make("div", {}, make("label", {for: "day"}, this.words.day), day), make("div", {}, make("label", {for: "time"}, this.words.time), time)),
      zone && make("p", {class: "hint"}, this.words.zone.replace("{zone}", zone.split("/").pop().replaceAll("_", " "))));
  }

  smsField() {
    return make("div", {class: "check", part: "field"}, make("input", {id: "sms", name: "sms_consent", type: "checkbox", value: "true"}),
      make("label", {for: "sms"}, this.getAttribute("sms-text") || this.words.sms));
  }

  // What was typed outlives a reload, and its key with it: the same form sent twice is one lead.
  keep() {
    try {
      sessionStorage.setItem(this.storage, JSON.stringify({sent: this.sent, values: [...new FormData(this.form)]}));
    } catch { /* then it is kept by the page alone */ }
  }

  restore() {
    this.storage = `${KEY}${this.getAttribute("token")}`;
    try {
      const kept = JSON.parse(sessionStorage.getItem(this.storage));
      this.sent = kept?.sent;
      for (const [name, value] of kept?.values ?? []) {
        const control = this.form.elements[name];
        if (control?.type === "checkbox") control.checked = true;
        else if (control) control.value = value;
      }
    } catch { /* nothing was kept */ }
  }

  body() {
    const {day, time, ...typed} = Object.fromEntries([...new FormData(this.form)].filter(([, value]) => value.trim()));
    const sent = {...typed, utm_data: origin(), request_host: location.host};
    if (day) sent.slot = `${day}T${time}`;
    const [source, number] = ["listing-source", "listing-id"].map((name) => this.getAttribute(name));
    if (source) sent.listing_source = source;
    if (number) sent.listing_source_original_id = number;
    return {token: this.getAttribute("token"), tour_request: sent};
  }

  say(text, focus = false) {
    this.status.textContent = text;
    if (focus) this.status.focus();
  }

  complain(control, text) {
    this.shadowRoot.querySelector(".bad")?.remove();
    control.setAttribute("aria-invalid", "true");
    control.setAttribute("aria-describedby", "bad");
    control.after(make("p", {id: "bad", class: "bad"}, text));
    control.focus();
  }

  async submit() {
    if (this.busy) return;  // a double click
    const email = this.form.elements.requestor_email;
    if (!email.value.trim() || !email.checkValidity()) return this.complain(email, this.words.bad);
    for (const name of ["aria-invalid", "aria-describedby"]) email.removeAttribute(name);
    this.shadowRoot.querySelector(".bad")?.remove();
    this.busy = true;
    this.button.setAttribute("aria-disabled", "true");
    this.tell("submit");
    const body = JSON.stringify(this.body());
    if (this.sent?.body !== body) this.sent = {body, key: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`};
    this.keep();
    try {
      this.done(await this.send(this.sent));
    } catch (error) {
      this.say(error.refusal || this.words.failed, true);
      this.tell("error", {message: error.message});
    }
    this.busy = false;
    this.button.removeAttribute("aria-disabled");
  }

  async send({body, key}) {
    const headers = {"Content-Type": "application/json", "Idempotency-Key": key};
    for (let attempt = 1; ; attempt++) {
      this.say(this.words.sending);
      let answer;
      try {
        answer = await fetch(this.getAttribute("action") || home, {method: "POST", headers, body});
        if (answer.ok) return await answer.json();
      } catch (error) {  // no network, or an answer that was cut
        if (attempt === TRIES) throw error;
        answer = undefined;
      }
      if (answer && answer.status !== 429 && answer.status < 500) {
        const {error} = await answer.json().catch(() => ({}));
        throw Object.assign(new Error(error), {refusal: typeof error === "string" ? error : this.words.failed});
      }
      if (attempt === TRIES) throw new Error(`answered ${answer.status}`);
      const seconds = Math.min(LONGEST_WAIT, Number(answer?.headers.get("Retry-After")) || 2 ** (attempt - 1));
      this.tell("retry", {attempt, seconds});
      this.say(this.words.again.replace("{s}", seconds));
      await wait(seconds);
    }
  }

  done({id}) {
    try { sessionStorage.removeItem(this.storage); } catch { /* it was not kept */ }
    for (const element of [...this.form.children]) if (element !== this.status) element.remove();
    this.say(this.words.done, true);
    this.tell("success", {id});
  }
}

// An element with attributes, and what is in it.
function make(name, attributes = {}, ...inside) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...inside.filter(Boolean));
  return element;
}

const home = script ? new URL("/api/v1/website_leads", script.src).href : "/api/v1/website_leads";
if (!customElements.get("lead-form")) customElements.define("lead-form", LeadForm);
if (script?.dataset.token) {
  const element = document.createElement("lead-form");
  for (const [name, value] of Object.entries(script.dataset)) {
    element.setAttribute(name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`), value);
  }
  script.after(element);
}
