/** Conversations under headings that say how long ago they were used. Pure. */

const MIDNIGHTS = { today: 0, yesterday: 1, week: 7 };

/**
 * @template {{updated_at: string}} Session
 * @param {Session[]} sessions the one used last first
 * @param {Date} [now]
 * @returns {{when: "today" | "yesterday" | "week" | "older", sessions: Session[]}[]} groups with something in them
 */
export function byDay(sessions, now = new Date()) {
  const groups = Map.groupBy(sessions, ({ updated_at: moment }) => dayOf(new Date(moment), now));
  return [...groups].map(([when, group]) => ({ when, sessions: group }));
}

/** @param {Date} moment @param {Date} now */
const dayOf = (moment, now) => Object.keys(MIDNIGHTS).find((when) => moment >= midnight(now, MIDNIGHTS[when])) ?? "older";

/** The beginning of a day in the reader's calendar, in which days have 23 to 25 hours. @param {Date} now @param {number} ago in days */
const midnight = (now, ago) => new Date(now.getFullYear(), now.getMonth(), now.getDate() - ago);
