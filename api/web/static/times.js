// Times as a person says them; the exact one is the title. Without this module they stand there in UTC.
const STEPS = [[60, "second"], [60, "minute"], [24, "hour"], [30, "day"], [12, "month"], [Infinity, "year"]];
const words = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "short" });

function ago(moment) {
  let amount = (moment - Date.now()) / 1000;
  for (const [size, unit] of STEPS) {
    if (Math.abs(amount) < size) return words.format(Math.trunc(amount), unit);
    amount /= size;
  }
}

export function sayTimes(within) {
  for (const time of within.querySelectorAll("time")) {
    const moment = new Date(time.dateTime);
    time.title = moment.toLocaleString();
    time.textContent = ago(moment);
  }
}
