// @ts-check
/// <reference path="../../types/nex.d.ts" />

/**
 * Asks everybody who listens on `sensors.read`, and gives what they said together.
 * @type {NexHandler}
 */
export default function readAll(_subject, payload) {
  const answers = hostServices.messaging.requestMany("sensors.read", payload, { max: 100, stall: 250, timeout: 2000 });
  const values = answers.map((answer) => Number(new TextDecoder().decode(answer))).filter(Number.isFinite);
  const sum = values.reduce((one, other) => one + other, 0);
  return { answers: answers.length, mean: values.length > 0 ? sum / values.length : null };
}
