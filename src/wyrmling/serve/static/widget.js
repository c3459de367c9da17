/*! wyrmling chat widget, Apache-2.0. One tag, no dependencies:
 *
 *   <script async src="https://HOST/widget.js" data-model="NAME" data-key="sk-..."></script>
 *
 * data-model     the model to ask (required)
 * data-key       an API key with the scopes infer and feedback; everybody who sees the page can read it, so give it limits
 * data-task      "chat" (default) or "classify"
 * data-title     the heading; data-greeting: the first line; data-placeholder: of the text field
 * data-accent    a colour; data-theme: "auto" (default), "light" or "dark"
 * data-system    a system message
 * data-user      your name for the visitor, kept as a pseudonym with feedback
 * data-open      present: open from the start
 *
 * Text from the model is only ever set as text, never as HTML. Nothing is stored in the browser.
 */
(() => {
  "use strict";
  const script = document.currentScript;
  const set = script.dataset;
  const api = new URL("v1/", script.src).href;
  if (!set.model) {
    console.error("wyrmling widget: data-model is missing");
    return;
  }
  const classifies = set.task === "classify";
  const history = set.system ? [{ role: "system", content: set.system }] : [];
  let busy = null;

  const host = document.createElement("div");
  host.dataset.wyrmling = "";
  const root = host.attachShadow({ mode: "open" });
  // A sheet made here passes a content security policy that forbids inline styles.
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(`
    :host { all: initial; --accent: #0b6e4f; --paper: #fff; --ink: #16211c; --soft: #eef2ef; --line: #c9d3cd;
      font: 15px/1.45 system-ui, sans-serif; color: var(--ink); color-scheme: light; }
    :host(.dark) { --accent: #4cc39a; --paper: #17201c; --ink: #e7eeea; --soft: #232e29; --line: #3c4a43; color-scheme: dark; }
    * { box-sizing: border-box; font: inherit; color: inherit; }
    button { cursor: pointer; border: 1px solid var(--line); border-radius: 8px; background: var(--paper); padding: 4px 10px; }
    button:focus-visible, textarea:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
    button[aria-pressed=true], .launch, .send { background: var(--accent); border-color: var(--accent); color: var(--paper); }
    .launch { position: fixed; right: 20px; bottom: 20px; z-index: 2147483000; border-radius: 999px; padding: 12px 20px; font-weight: 600; }
    .panel { position: fixed; right: 20px; bottom: 20px; z-index: 2147483000; display: flex; flex-direction: column;
      width: min(400px, calc(100vw - 24px)); height: min(600px, calc(100vh - 40px)); background: var(--paper);
      border: 1px solid var(--line); border-radius: 14px; overflow: hidden; box-shadow: 0 8px 30px rgb(0 0 0 / .25); }
    .panel[hidden], .launch[hidden] { display: none; }
    header { display: flex; align-items: center; gap: 8px; padding: 10px 14px; border-bottom: 1px solid var(--line); }
    h2 { flex: 1; margin: 0; font-weight: 600; }
    .log { flex: 1; overflow-y: auto; padding: 14px; display: flex; flex-direction: column; gap: 10px; }
    .turn { max-width: 88%; padding: 8px 12px; border-radius: 12px; background: var(--soft); white-space: pre-wrap; overflow-wrap: anywhere; }
    .mine { align-self: flex-end; background: var(--accent); color: var(--paper); }
    .wrong { border: 1px solid #c0392b; }
    .rate { display: flex; flex-wrap: wrap; gap: 6px; align-items: center; }
    .rate textarea { flex: 1 1 100%; }
    form { display: flex; gap: 8px; padding: 10px; border-top: 1px solid var(--line); }
    textarea { flex: 1; resize: none; border: 1px solid var(--line); border-radius: 8px; padding: 8px; background: var(--paper); }
    .hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
  `);
  root.adoptedStyleSheets = [sheet];
  root.innerHTML = `<button class="launch" type="button" aria-expanded="false"></button>
  <section class="panel" role="dialog" aria-labelledby="title" hidden>
    <header><h2 id="title"></h2><button class="close" type="button" aria-label="Close">×</button></header>
    <div class="log" role="log" aria-live="polite" tabindex="0" aria-label="Conversation"></div>
    <form><label class="hidden" for="text">Your message</label><textarea id="text" rows="2" maxlength="20000"></textarea>
    <button class="send" type="submit">Send</button></form>
  </section>`;
  const $ = (selector) => root.querySelector(selector);
  const [launch, panel, log, form, text, send] = [".launch", ".panel", ".log", "form", "textarea", ".send"].map($);
  const title = set.title || "Ask us";
  launch.textContent = $("#title").textContent = title;
  text.placeholder = set.placeholder || "Write a message";
  if (set.accent && CSS.supports("color", set.accent)) host.style.setProperty("--accent", set.accent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const paint = () => host.classList.toggle("dark", set.theme === "dark" || (set.theme !== "light" && dark.matches));
  dark.addEventListener("change", paint);
  paint();

  const make = (tag, className, content) => {
    const made = document.createElement(tag);
    made.className = className;
    if (content !== undefined) made.textContent = content;
    if (tag === "button") made.type = "button";
    return made;
  };
  const turn = (className, content) => {
    const made = make("div", `turn ${className}`, content);
    log.append(made);
    made.scrollIntoView({ block: "end" });
    return made;
  };
  const open = (yes) => {
    panel.hidden = !yes;
    launch.hidden = yes;
    launch.setAttribute("aria-expanded", String(yes));
    (yes ? text : launch).focus();
  };
  const post = (path, body, signal) => fetch(api + path, {
    method: "POST",
    signal,
    headers: { "content-type": "application/json", ...(set.key && { authorization: `Bearer ${set.key}` }) },
    body: JSON.stringify(body),
  });
  const reasonOf = async (answer) => {
    try { return (await answer.json()).error.message; } catch { return `the server answered ${answer.status}`; }
  };

  /** The events of a server-sent stream, parsed; an event with an error is thrown. */
  async function* events(answer) {
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let held = ""; ;) {
      const { value, done } = await reader.read();
      if (done) throw new Error("the answer was cut off");
      const parts = (held + value).split("\n\n");
      held = parts.pop();
      for (const part of parts) {
        if (!part.startsWith("data: ")) continue;
        if (part === "data: [DONE]") return;
        const event = JSON.parse(part.slice(6));
        if (event.error) throw new Error(event.error.message);
        yield event;
      }
    }
  }

  async function chat(shown, signal) {
    const prompt = history.slice();
    const answer = await post("chat/completions", { model: set.model, messages: prompt, stream: true }, signal);
    if (!answer.ok) throw new Error(await reasonOf(answer));
    let id = "", said = "";
    for await (const event of events(answer)) {
      id = event.id;
      const added = event.choices[0]?.delta.content;
      if (added) shown.textContent = said += added;
      log.scrollTop = log.scrollHeight;
    }
    history.push({ role: "assistant", content: said });
    return { id, prompt, said };
  }

  async function classify(shown, signal) {
    const prompt = history[history.length - 1].content;
    const answer = await post("classify", { model: set.model, input: prompt }, signal);
    if (!answer.ok) throw new Error(await reasonOf(answer));
    const { id, data: [found] } = await answer.json();
    shown.textContent = `${found.label} (${Math.round(100 * found.probabilities[found.label])} %)`;
    return { id, prompt, said: found.label, labels: Object.keys(found.probabilities) };
  }

  /** Thumbs and a correction below an answer. */
  function rating({ id, prompt, said, labels }) {
    const row = make("div", "rate");
    const status = make("span", "", "");
    status.setAttribute("role", "status");
    const tell = async (given) => {
      const answer = await post("feedback", { id, prompt, ...(set.user && { user: set.user }), ...given });
      status.textContent = answer.ok ? "Thank you" : await reasonOf(answer);
      return answer.ok;
    };
    const thumbs = [["👍", "Good answer", "up"], ["👎", "Bad answer", "down"]].map(([sign, name, value]) => {
      const button = make("button", "", sign);
      button.setAttribute("aria-label", name);
      button.setAttribute("aria-pressed", "false");
      button.onclick = async () => {
        if (await tell({ rating: value })) for (const one of thumbs) one.setAttribute("aria-pressed", String(one === button));
      };
      return button;
    });
    const correct = make("button", "", "Correct it");
    correct.onclick = () => {
      const field = make(labels ? "select" : "textarea", "");
      field.setAttribute("aria-label", "What it should have been");
      if (labels) field.append(...labels.map((label) => new Option(label, label, false, label === said)));
      else field.value = said;
      const save = make("button", "", "Save");
      save.onclick = async () => {
        if (await tell({ rating: "down", correction: field.value })) for (const one of [field, save]) one.remove();
      };
      correct.remove();
      row.append(field, save);
      field.focus();
      row.scrollIntoView({ block: "end" });
    };
    row.append(...thumbs, correct, status);
    log.append(row);
  }

  async function ask(words) {
    turn("mine", words);
    history.push({ role: "user", content: words });
    const shown = turn("", "…");
    busy = new AbortController();
    send.textContent = "Stop";
    try {
      rating(await (classifies ? classify : chat)(shown, busy.signal));
    } catch (error) {
      // The question goes back to the field, so that nothing typed is lost.
      history.pop();
      text.value ||= words;
      shown.classList.add("wrong");
      shown.textContent = error.name === "AbortError" ? "Stopped." : `This did not work: ${error.message}`;
    } finally {
      busy = null;
      send.textContent = "Send";
      log.scrollTop = log.scrollHeight;
    }
  }

  form.onsubmit = (event) => {
    event.preventDefault();
    const words = text.value.trim();
    if (busy) busy.abort();
    else if (words) {
      text.value = "";
      ask(words);
    }
  };
  text.onkeydown = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      form.requestSubmit();
    }
  };
  launch.onclick = () => open(true);
  $(".close").onclick = () => open(false);
  root.addEventListener("keydown", (event) => event.key === "Escape" && open(false));

  const start = () => {
    document.body.append(host);
    if (set.greeting) turn("", set.greeting);
    if ("open" in set) open(true);
  };
  if (document.body) start();
  else addEventListener("DOMContentLoaded", start);
})();
