// Requests to the API with the session's cookie. A refusal is thrown, with all that the service said of it.

export async function send(address, body) {
  const options = { method: "POST", headers: {}, credentials: "same-origin" };
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(address, options);
  } catch {
    throw new Error("The service does not answer. Try again.");
  }
  if (response.status === 401) {
    location.assign(`/login?next=${encodeURIComponent(location.pathname)}`);
    throw new Error("The session has ended.");
  }
  const answer = await response.json();
  if (!response.ok) throw new Error(told(answer));
  return answer;
}

function told(problem) {
  const faults = problem.errors.map((fault) => (fault.param ? `${fault.param}: ${fault.message}` : fault.message));
  return faults.length > 0 ? faults.join("\n") : problem.detail;
}

export function say(words) {
  const place = document.querySelector("#said");
  place.textContent = words;
  place.hidden = words === "";
  if (words !== "") place.scrollIntoView({ block: "nearest" });
}
