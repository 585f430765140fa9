// The form of a new job: its fields as the body of POST /v1/jobs, which says what is wrong with them.
import { send, say } from "./send.js";

export function prepareForm(form) {
  if (form === null) return;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const buttons = form.querySelectorAll("button");
    buttons.forEach((button) => { button.disabled = true; });
    form.querySelector("#plan").textContent = "";
    say("");
    try {
      const body = asked(new FormData(form));
      if (event.submitter?.value === "check") {
        form.querySelector("#plan").textContent = planned(await send("/v1/jobs?validate_only=true", body));
      } else {
        const job = await send("/v1/jobs", body);
        location.assign(`/jobs/${encodeURIComponent(job.id)}`);
      }
    } catch (problem) {
      say(problem.message);
    } finally {
      buttons.forEach((button) => { button.disabled = false; });
    }
  });
}

function asked(fields) {
  const given = (name) => fields.get(name).trim();
  const recipe = { strategy: given("strategy") };
  const stop = {};
  if (given("sparsity")) stop.sparsity = Number((Number(given("sparsity")) / 100).toFixed(6));
  if (given("rounds")) stop.rounds = Number(given("rounds"));
  if (given("floor")) stop.accuracy_floor = { factor: Number((Number(given("floor")) / 100).toFixed(6)) };
  if (Object.keys(stop).length > 0) recipe.stop = stop;
  if (given("seed")) recipe.seed = Number(given("seed"));
  if (given("recipe")) Object.assign(recipe, parsed(given("recipe")));
  const body = { model: given("model"), dataset: given("dataset"), recipe };
  if (given("label")) body.metadata = { name: given("label") };
  return body;
}

function parsed(text) {
  let recipe;
  try {
    recipe = JSON.parse(text);
  } catch (error) {
    throw new Error(`The recipe is not JSON: ${error.message}`);
  }
  if (recipe === null || typeof recipe !== "object" || Array.isArray(recipe)) {
    throw new Error("The recipe is a JSON object, such as {\"training\": {\"epochs\": 10}}");
  }
  return recipe;
}

function planned(plan) {
  const last = plan.rounds.at(-1);
  const removed = last ? `, ${(last.sparsity * 100).toFixed(1)}% removed in the last` : "";
  const seconds = plan.estimate.seconds;
  const time = seconds === null ? "" : `, about ${Math.max(1, Math.round(seconds))} s`;
  return `This can be done: ${plan.rounds.length} rounds${removed}${time}.`;
}
