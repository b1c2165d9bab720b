// @ts-check
/// <reference path="../../types/nex.d.ts" />

/**
 * Counts its calls, by subject. Several calls may count at once: whoever was overtaken looks again.
 * @type {NexHandler}
 */
export default function count(subject) {
  const key = subject.replaceAll(/[^\w.-]/g, "_");
  for (;;) {
    const value = hostServices.kv.get(key);
    const next = value === null ? 1 : Number(new TextDecoder().decode(value)) + 1;
    try {
      if (value === null) hostServices.kv.create(key, String(next));
      else hostServices.kv.update(key, String(next), value.revision);
      return String(next);
    } catch (error) {
      if (!(error instanceof HostServiceError) || error.code !== "conflict") throw error;
    }
  }
}
