/** Do something about servers, and say what went wrong; what is shown is then as the server has it. */
import { dismiss, report } from "../problem.js";
import { loadServers } from "../servers.js";

/** @param {Promise<any>} doing @returns {Promise<boolean>} whether it was done */
export async function act(doing) {
  dismiss();
  try {
    await doing;
    return true;
  } catch (error) {
    report(error);
    await loadServers().catch(() => {});
    return false;
  }
}
