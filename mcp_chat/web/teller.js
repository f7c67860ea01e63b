/** What the live line tells of a conversation, put on the page event by event. */
import { paintOn } from "./answer.js";
import { hearApproval } from "./approvals.js";
import { questionOf } from "./history.js";
import * as page from "./messages.js";
import { hearQuestion } from "./questions.js";

const LAST = new Set(["final", "error"]);

/** Behind these places all that a turn has told is told again. */
const VOID = new Set(["0-0", ""]);

/**
 * @param {{came: (id: string) => void, began: () => void, over: (answer: import("./messages.js").Shown, id: string) => void,
 *   reload: () => Promise<void>, servers: () => void}} tell `came`: a message that was sent is in the conversation;
 *   `over`: a turn has ended; `reload`: shows what is recorded; `servers`: one of them has changed
 */
export function teller({ came, began, over, reload, servers }) {
  /** @type {{id: string, asked?: string, answer?: object, canvas?: object, torn?: boolean} | null} */
  let turn = null;

  const begin = (id) => {
    if (turn?.id === id) return;
    turn = { id };
    began();
  };

  const answerIn = (answer) => {
    turn.canvas?.flush();
    [turn.first, turn.answer, turn.canvas] = [turn.first ?? answer, answer, paintOn(answer)];
  };

  const say = (event) => {
    if (!turn.canvas) answerIn(page.current());
    page.tell(turn.answer);
    turn.canvas.add(event);
  };

  const asked = (record) => {
    const { steer } = record.metadata ?? {};
    const question = { ...questionOf(record), turn: steer ?? turn.id };
    if (turn.asked?.includes(record.id)) return; // told again for who has not heard it
    turn.asked = [...(turn.asked ?? []), record.id];
    turn.canvas?.flush();
    answerIn(steer ? page.goOn(question) : page.begin(question));
    if (!steer) turn.first = turn.answer;
    came(question.turn);
  };

  const ended = (event) => {
    say(event);
    turn.canvas.flush();
    const { id, answer, torn } = turn;
    turn = null;
    over(answer, id);
    if (torn || event.name === "error") return reload();
    return undefined;
  };

  const again = () => {
    turn.canvas?.flush();
    if (turn.first) page.rewind(turn.first);
    const { id, first } = turn;
    turn = { id, torn: true, asked: turn.asked?.slice(0, 1) };
    if (first) answerIn(first);
  };

  const steps = {
    turn: ({ turn_id: id }) => begin(id),
    branch: () => {
      if (turn) turn.torn = true; // which of how many branches each message begins is told by the record alone
      return reload();
    },
    reset: () => {
      turn = null;
      return reload();
    },
    server_changed: servers,
  };

  /** @param {{name: string, data: any, id: string}} event */
  const hear = (event) => {
    const { name, data } = event;
    hearQuestion(event);
    hearApproval(event);
    if (Object.hasOwn(steps, name)) return steps[name](data);
    if (!data.turn_id) return undefined;
    begin(data.turn_id);
    if (name === "message" && data.message.role === "user") return asked(data.message);
    if (name === "discard" && VOID.has(data.after)) again();
    if (LAST.has(name)) return ended(event);
    return say(event);
  };

  /** What is on the page was read anew: the turn that runs is told from its beginning. */
  const forget = () => {
    turn?.canvas?.flush();
    turn = null;
  };

  return { hear, forget };
}
