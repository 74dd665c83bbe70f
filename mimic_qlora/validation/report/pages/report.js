const trials = [...document.querySelectorAll(".trial")];
const at = (id) => document.getElementById(id);
const texts = trials.map((trial) => trial.textContent.toLowerCase());
let here = -1;

function show() {
  const words = at("words").value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  trials.forEach((trial, i) => {
    const fits = words.every((word) => texts[i].includes(word))
      && (!at("question").value || trial.dataset.question === at("question").value)
      && (!at("kind").value || trial.dataset.kinds.split(" ").includes(at("kind").value));
    trial.hidden = !fits;
    shown += fits;
  });
  at("count").textContent = `${shown} of ${trials.length} trials`;
}

function step(by) {
  let next = here + by;
  while (trials[next] && trials[next].hidden) next += by;
  if (!trials[next]) return;
  if (trials[here]) trials[here].classList.remove("here");
  here = next;
  trials[here].classList.add("here");
  trials[here].focus({ preventScroll: true });
  trials[here].scrollIntoView({ block: "start" });
}

function differences(on) {
  at("differ").checked = on;
  at("trials").classList.toggle("differences", on);
}

for (const id of ["words", "question", "kind"]) at(id).addEventListener("input", show);
at("differ").addEventListener("input", () => differences(at("differ").checked));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") {
    for (const id of ["words", "question", "kind"]) at(id).value = "";
    document.activeElement.blur();
    return show();
  }
  if (/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && event.target.type !== "checkbox") return;
  if (event.key === "j") step(1);
  else if (event.key === "k") step(-1);
  else if (event.key === "d") differences(!at("differ").checked);
  else if (event.key === "/") at("words").focus();
  else return;
  event.preventDefault();
});
show();
