// What every page does: its times in words, its buttons, its regions kept as they are on the server.
import { follow } from "./live.js";
import { prepareForm } from "./new_job.js";
import { send, say } from "./send.js";
import { sayTimes } from "./times.js";

document.addEventListener("click", async (event) => {
  const button = event.target.closest("button[data-post]");
  if (button === null) return;
  button.disabled = true;
  try {
    const whole = await send(button.dataset.post);
    const page = `/${whole.object}s/${encodeURIComponent(whole.id)}`;
    // What had ended and is retried under its own id: the page is followed anew.
    const isFollowed = document.querySelector("main[data-live]") !== null;
    if (page !== location.pathname || !isFollowed) location.assign(page);
    else document.dispatchEvent(new Event("changed"));
  } catch (problem) {
    say(problem.message);
  } finally {
    button.disabled = false;
  }
});

sayTimes(document);
follow(document.querySelector("main[data-live]"));
prepareForm(document.querySelector("#new-job"));
