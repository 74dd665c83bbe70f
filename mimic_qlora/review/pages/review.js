"use strict";
// Entering: the token leaves the address bar before anything else happens. A link that is opened where this page is
// shown already only changes the address; one of another rater comes before the rater who is signed in.
const door = document.getElementById("enter");
if (door) {
  const enter = () => {
    const token = location.hash.slice(1), on = document.getElementById("on");
    if (token) {
      history.replaceState(null, "", "/");
      document.getElementById("token").value = token;
      door.submit();
    } else if (on) location.replace(on.href);
  };
  addEventListener("hashchange", enter);
  enter();
}

// Words that were changed and not sent are not left by mistake.
const words = document.querySelector('form[action^="/content/"]');
if (words) {
  let changed = document.querySelector("[role=status]").textContent !== "";  // what was refused is not kept either
  words.addEventListener("input", () => { changed = true; });
  words.addEventListener("submit", () => { changed = false; });
  addEventListener("beforeunload", event => { if (changed) event.preventDefault(); });
}

// Judging: every click is saved at once; what could not be sent waits and is sent again, in order.
const form = document.getElementById("marks");
if (form) {
  const status = document.getElementById("status");
  const waiting = [];
  let sending = false, afterwards = null, timer = null;

  async function send() {
    if (sending) return;
    sending = true;
    while (waiting.length) {
      try {
        const body = new URLSearchParams(waiting[0]);
        const keepalive = String(body).length < 60000;  // sent to its end though the page is left; browsers take no more
        const reply = await fetch(form.action, {method: "POST", body, keepalive});
        if (reply.status >= 500) throw new Error("review.py's terminal says why");
        if (!reply.ok) {
          status.textContent = reply.status === 401 ? "Not saved: this page is signed out. Open a new link of review.py."
                             : reply.status === 409 ? "Not saved: this browser is now signed in as another rater."
                             : "Not saved: the page is out of date. Load it again.";
          sending = false;
          return;
        }
        waiting.shift();
        show(await reply.json());
      } catch (error) {
        const why = error instanceof TypeError ? "no connection" : error.message;
        status.textContent = "Not saved yet: " + why + ". It is tried again until it works; leave this page open.";
        await new Promise(again => setTimeout(again, 1500));
      }
    }
    sending = false;
    status.textContent = "Saved.";
    if (afterwards) afterwards();
  }

  function save(fields) {
    waiting.push([...fields, ["marking", "1"], ["rater", form.elements.rater.value]]);
    send();
  }

  function show(reply) {
    document.getElementById("answered").textContent = reply.answered;
    document.getElementById("progress").value = reply.answered;
    for (const side of ["a", "b"]) {
      const group = [...form.elements].filter(e => e.type === "radio" && e.name.startsWith(side + "_"));
      const single = group.filter(e => !e.name.endsWith("_all"));
      for (const input of single) input.checked = reply.marks[input.name] === input.value;
      const given = new Set([...new Set(single.map(e => e.name))].map(name => reply.marks[name] || ""));
      for (const input of group) if (input.name.endsWith("_all")) input.checked = given.size === 1 && given.has(input.value);
    }
  }

  form.addEventListener("change", event => {
    const input = event.target;
    if (input.type === "checkbox") {
      const name = input.name, ticked = [...form.elements].filter(e => e.name === name && e.checked);
      document.getElementById(name[0] + "-" + input.value).classList.toggle("harmful", input.checked);
      save(ticked.length ? ticked.map(e => [name, e.value]) : [[name, ""]]);
    } else if (input.type === "radio") save([[input.name, input.value]]);
  });

  const comment = document.getElementById("comment");
  let kept = comment.value;
  const keepComment = () => {
    clearTimeout(timer);
    if (comment.value !== kept) save([["comment", kept = comment.value]]);
  };
  comment.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(keepComment, 1000); });
  comment.addEventListener("change", keepComment);

  // The page is left once the server has answered: without a connection the next one could not be shown.
  form.addEventListener("submit", event => {
    event.preventDefault();
    keepComment();
    afterwards = () => location.assign(form.dataset.next);
    save([]);
  });

  // What is undone is the last mark that was made, so it has to be kept first.
  const undo = document.getElementById("undo").form;
  undo.addEventListener("submit", event => {
    event.preventDefault();
    afterwards = () => undo.submit();
    save([]);
  });
  addEventListener("beforeunload", event => {
    keepComment();  // what was typed within the last second is a comment too
    if (waiting.length) event.preventDefault();
  });

  // Keys act only inside the group that has the focus, so they never get in the way of reading or of other tools.
  const groups = [...form.querySelectorAll("fieldset[data-keys]")];
  const go = document.getElementById("go");
  const isAll = group => group.querySelector("input").name.endsWith("_all");
  const isDone = group => group.querySelector("input:checked") !== null;
  form.addEventListener("keydown", event => {
    const group = event.target.closest("fieldset[data-keys]");
    if (!group || event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === "u") return document.getElementById("undo").click();
    const input = group.querySelector(`input[data-key="${CSS.escape(event.key)}"]`);
    if (!input) return;
    event.preventDefault();
    input.checked = true;
    input.dispatchEvent(new Event("change", {bubbles: true}));
    const later = groups.slice(groups.indexOf(group) + 1);
    const next = isAll(group) ? later.find(other => isAll(other) || other.classList.contains("better")) : later[0];
    (next || go).focus();
  });
  const first = groups.find(group => (isAll(group) || group.classList.contains("better")) && !isDone(group));
  (first || go).focus({preventScroll: true});
}
