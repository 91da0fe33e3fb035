// Lead form for building websites: <script src="…/static/lead-form.js" data-token="…" defer></script>
//
// The script adds a <lead-form> in its place; or write the element yourself. Attributes (data-… on the script):
//   token            the building's token (required)
//   fields           the fields to show, in this order: name email phone unit slot message sms (email is always shown)
//   units            "2A, 4B, Studio": choices, instead of free text
//   time-zone        the building's time zone, like America/New_York; the days and hours of tours are in it
//   slot-days, slot-hours   the number of days to offer (14), and the hours between which tours begin ("9-18")
//   sms-text, sms-version   the text of the SMS consent, and a name for this version of the text
//   listing-source, listing-id   the listing site that the renter came from, and its id of the listing
//   lang             en or es (default: the page's language, else en)
//   action           the URL to POST leads to (default: the server of this script)
// Events, for analytics: lead-form:view, :start, :submit, :retry, :success (detail.id), :error (detail.message).
// Theming: CSS variables (--lead-form-accent, -radius, -font, -gap) and ::part(field|input|button|status).

// A function, so that it defines no globals: it runs in other websites' pages, and may run more than once.
(() => {
  const script = document.currentScript;
  const KEY = "lead-form:";
  const TRIES = 6;
  const LONGEST_WAIT = 60, TIMEOUT = 20, KEPT = 30 * 60;  // seconds
  const LONGEST_UTM = 10000;  // characters; the server refuses a longer one

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
  form, fieldset, .fields { display: grid; gap: var(--lead-form-gap, .8rem); border: 0; margin: 0; padding: 0; min-width: 0; }
  label, legend { display: block; font-weight: 600; margin: 0 0 .2rem; padding: 0; }
  input, select, textarea, button { font: inherit; width: 100%; box-sizing: border-box; padding: .55rem;
    border: 1px solid #767676; border-radius: var(--lead-form-radius, .3rem); background: #fff; color: #1a1a1a; }
  :focus-visible { outline: 3px solid var(--lead-form-accent, #0b57d0); outline-offset: 1px; }
  button { background: var(--lead-form-accent, #0b57d0); border-color: transparent; color: #fff; font-weight: 600; cursor: pointer; }
  button[aria-disabled=true] { opacity: .6; cursor: progress; }
  .trap { position: absolute; left: -200vw; }
  .two { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .5rem; }
  fieldset label { font-weight: 400; } [hidden] { display: none; }
  .check { display: grid; grid-template-columns: auto 1fr; gap: .5rem; align-items: start; }
  .check input { width: 1.2rem; height: 1.2rem; } .check label { font-weight: 400; margin: 0; }
  .hint { font-size: .9em; margin: .2rem 0 0; }
  .bad { color: #b3261e; margin: .2rem 0 0; } [role=status] { min-height: 1.4em; margin: 0; }`;

  // Return the visit's latest utm_ parameters and its referrer, as a query string.
  function cameFrom() {
    let first = {};
    try {
      first = JSON.parse(sessionStorage.getItem(KEY + "origin")) ?? {};
      const utm = new URLSearchParams([...new URLSearchParams(location.search)].filter(([name]) => name.startsWith("utm_")));
      if (`${utm}`) first.utm = `${utm}`;
      if (!("referrer" in first)) first.referrer = document.referrer.startsWith(location.origin) ? "" : document.referrer;
      sessionStorage.setItem(KEY + "origin", JSON.stringify(first));
    } catch { /* without storage, only this page's own are known */ }
    const all = [...new URLSearchParams(first.utm), ["referrer", first.referrer ?? ""]].filter(([, value]) => value);
    while (`${new URLSearchParams(all)}`.length > LONGEST_UTM) all.pop();
    return `${new URLSearchParams(all)}`;
  }

  const wait = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

  class LeadForm extends HTMLElement {
    connectedCallback() {
      if (this.shadowRoot) return;
      const language = (this.getAttribute("lang") || document.documentElement.lang || "en").slice(0, 2).toLowerCase();
      this.language = WORDS[language] ? language : "en";
      this.words = WORDS[this.language];
      this.began = Date.now();
      cameFrom();  // records the origin on the visit's first page
      this.attachShadow({mode: "open"});
      try {
        const sheet = new CSSStyleSheet();  // not a <style>, which a strict CSP refuses
        sheet.replaceSync(STYLE);
        this.shadowRoot.adoptedStyleSheets = [sheet];
      } catch {  // an older browser
        this.shadowRoot.append(make("style", {}, STYLE));
      }
      this.build();
      this.tell("view");
    }

    tell(what, detail = {}) {
      this.dispatchEvent(new CustomEvent(`lead-form:${what}`, {bubbles: true, composed: true, detail}));
    }

    build() {
      const wanted = (this.getAttribute("fields") || "name email phone unit slot message sms").split(/[\s,]+/);
      if (!wanted.includes("email")) wanted.unshift("email");
      this.form = make("form", {novalidate: "", lang: this.language, dir: "ltr"});
      this.fields = make("div", {class: "fields"});
      for (const field of wanted) if (this[`${field}Field`]) this.fields.append(this[`${field}Field`]());
      this.button = make("button", {part: "button"}, this.words.send);
      this.status = make("p", {role: "status", part: "status", tabindex: "-1"});
      // Honeypot: people don't see this field, but programs that fill in every field do.
      this.fields.append(make("div", {class: "trap", "aria-hidden": "true"}, make("label", {for: "trap"}, "Leave this empty"),
        make("input", {id: "trap", name: "trap", tabindex: "-1", autocomplete: "off", "data-1p-ignore": "", "data-lpignore": "true"})));
      this.form.append(this.fields, this.button, this.status);
      this.form.addEventListener("submit", (event) => { event.preventDefault(); this.submit(); });
      this.form.addEventListener("input", () => {
        if (!this.started) this.tell("start");
        this.started = true;
        this.uncomplain();
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

    // Days and hours are in the building's time zone, which the server assumes for a slot without an offset.
    slotField() {
      const zone = zoneOf(this.getAttribute("time-zone"));
      const [, from, to] = /^\s*(\d+)\s*-\s*(\d+)\s*$/.exec(this.getAttribute("slot-hours")) ?? [0, 9, 18];
      const spoken = new Intl.DateTimeFormat(this.language, {timeZone: "UTC", weekday: "short", day: "numeric", month: "short"});
      const clock = new Intl.DateTimeFormat(this.language, {timeZone: "UTC", hour: "numeric", minute: "2-digit"});
      const now = Object.fromEntries(new Intl.DateTimeFormat("en-US", {timeZone: zone, year: "numeric", month: "numeric", day: "numeric"})
        .formatToParts().map(({type, value}) => [type, value]));
      const today = Date.UTC(now.year, now.month - 1, now.day);
      const day = make("select", {id: "day", name: "day", part: "input"}, make("option", {value: ""}, this.words.none));
      for (let ahead = 1; ahead <= Number(this.getAttribute("slot-days") || 14); ahead++) {
        const then = new Date(today + ahead * 864e5);
        day.append(make("option", {value: then.toISOString().slice(0, 10)}, spoken.format(then)));
      }
      const time = make("select", {id: "time", name: "time", part: "input"});
      for (let half = 2 * from; half < 2 * Math.min(to, 24); half++) {
        const then = new Date(half * 18e5);
        time.append(make("option", {value: then.toISOString().slice(11, 16)}, clock.format(then)));
      }
      const hour = make("div", {}, make("label", {for: "time"}, this.words.time), time);
      day.addEventListener("change", () => { hour.hidden = !day.value; });
      hour.hidden = true;
      return make("fieldset", {part: "field"}, make("legend", {}, this.words.slot), make("div", {class: "two"},
        make("div", {}, make("label", {for: "day"}, this.words.day), day), hour),
        zone && make("p", {class: "hint"}, this.words.zone.replace("{zone}", zone.split("/").pop().replaceAll("_", " "))));
    }

    smsField() {
      return make("div", {class: "check", part: "field"}, make("input", {id: "sms", name: "sms_consent", type: "checkbox", value: "true"}),
        make("label", {for: "sms"}, this.getAttribute("sms-text") || this.words.sms));
    }

    // Keep the typed values for a while, in case of a reload, and the Idempotency-Key with them, so that the same form
    // sent twice is one lead. `restore` leaves consent out: another person may have reloaded the page.
    keep() {
      try {
        sessionStorage.setItem(this.storage, JSON.stringify({at: Date.now(), began: this.began, sent: this.sent, values: [...new FormData(this.form)]}));
      } catch { /* without storage, a reload loses the values */ }
    }

    restore() {
      this.storage = `${KEY}${this.getAttribute("token")}:${location.pathname}`;
      try {
        const kept = JSON.parse(sessionStorage.getItem(this.storage));
        if (!kept || Date.now() - kept.at > 1000 * KEPT) return;
        [this.sent, this.began] = [kept.sent, kept.began];
        for (const [name, value] of kept.values) {
          const control = this.form.elements[name];
          if (!control || control.type === "checkbox") continue;
          control.value = value;
          control.dispatchEvent(new Event("change"));
        }
      } catch { /* no storage, or nothing usable in it */ }
    }

    body() {
      const {day, time, trap, ...typed} = Object.fromEntries([...new FormData(this.form)].filter(([, value]) => value.trim()));
      const sent = {...typed, utm_data: cameFrom(), request_host: location.host};
      if (day) sent.slot = `${day}T${time}`;
      if (trap) sent.homepage = trap;
      // The script knows the version of its own text only.
      const version = this.getAttribute("sms-version") || (this.hasAttribute("sms-text") ? "" : `lead-form ${this.language} 1`);
      if (typed.sms_consent && version) sent.sms_consent_version = version;
      const [source, number] = ["listing-source", "listing-id"].map((name) => this.getAttribute(name));
      if (source) sent.listing_source = source;
      if (number) sent.listing_source_original_id = number;
      return {token: this.getAttribute("token"), tour_request: sent};
    }

    say(text, focus = false) {
      this.status.textContent = text;
      if (focus) this.status.focus();
      else this.status.scrollIntoView({block: "nearest"});
    }

    uncomplain() {
      this.shadowRoot.querySelector(".bad")?.remove();
      for (const name of ["aria-invalid", "aria-describedby"]) this.form.elements.requestor_email.removeAttribute(name);
    }

    complain(control, text) {
      this.uncomplain();
      control.setAttribute("aria-invalid", "true");
      control.setAttribute("aria-describedby", "bad");
      control.after(make("p", {id: "bad", class: "bad"}, text));
      control.focus();
    }

    async submit() {
      if (this.busy) return;  // a double click
      const email = this.form.elements.requestor_email;
      // The browser's own check accepts ASCII addresses only.
      if (!/^\s*[^\s@]+@[^\s@]+\s*$/.test(email.value)) return this.complain(email, this.words.bad);
      this.uncomplain();
      this.busy = this.fields.inert = true;  // values typed from now on would not be sent
      this.button.setAttribute("aria-disabled", "true");
      this.tell("submit");
      const lead = this.body();
      const typed = JSON.stringify(lead);
      if (this.sent?.typed !== typed) {
        lead.tour_request.form_seconds = ((Date.now() - this.began) / 1000).toFixed(1);
        this.sent = {typed, body: JSON.stringify(lead), key: crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`};
      }
      this.keep();
      try {
        this.done(await this.send(this.sent));
      } catch (error) {
        this.say(error.refusal || this.words.failed, true);
        this.tell("error", {message: error.message});
      }
      this.busy = this.fields.inert = false;
      this.button.removeAttribute("aria-disabled");
    }

    async send({body, key}) {
      const headers = {"Content-Type": "application/json", "Idempotency-Key": key};
      for (let attempt = 1; ; attempt++) {
        this.say(this.words.sending);
        let answer;
        try {
          answer = await fetch(this.getAttribute("action") || home, {method: "POST", headers, body, signal: AbortSignal.timeout?.(1000 * TIMEOUT)});
          if (answer.ok) return await answer.json();
        } catch (error) {  // no network, or the response was cut off
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
      try { sessionStorage.removeItem(this.storage); } catch { /* no storage */ }
      for (const element of [...this.form.children]) if (element !== this.status) element.remove();
      this.say(this.words.done, true);
      this.tell("success", {id});
    }
  }

  // Return the canonical name of a time zone; undefined if there is no such zone.
  function zoneOf(name) {
    try {
      return name ? new Intl.DateTimeFormat("en", {timeZone: name}).resolvedOptions().timeZone : undefined;
    } catch {
      console.warn(`lead-form: there is no time zone ${name}`);
    }
  }

  // Return an element with these attributes and children.
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
    if (document.body?.contains(script)) script.after(element);
    else document.body.append(element);
  }
})();
