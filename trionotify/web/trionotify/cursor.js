/**
 * Cursors: places in the server's log, `epoch:offset`, or `epoch:offset:check` in a log that several servers share.
 *
 * An epoch names one life of the log, and cursors of two epochs can't be compared: the new life counts as ahead. Offsets
 * grow within an epoch, but may have holes, so cursors are compared and never counted. The check is for the server alone: it
 * tells two histories apart that give the same offsets to different notifications.
 */

/** An `x` tells a check from an offset, because epochs may have colons. */
const CURSOR = /^(.+):(\d{1,19})(?::x[0-9a-f]{1,16})?$/s;

/** @param {string} cursor */
function placeOf(cursor) {
  const [, epoch = cursor, offset = "0"] = CURSOR.exec(cursor) ?? [];
  return { epoch, offset: BigInt(offset) };
}

/** Whether two cursors belong to the same life of the log. @param {string} one @param {string} other */
export function sameEpoch(one, other) {
  return placeOf(one).epoch === placeOf(other).epoch;
}

/**
 * Whether one cursor is further on in the stream than another. A cursor of another life of the log always is.
 * @param {string | undefined} one
 * @param {string | undefined} other
 */
export function isAhead(one, other) {
  if (one === undefined || other === undefined) return one !== undefined;
  return !sameEpoch(one, other) || placeOf(one).offset > placeOf(other).offset;
}
