/// <reference path="../../types/nex.d.ts" />

/** Keeps documents: the last part of the subject says what to do, the header `Name` with which of them. */
export default async function documents(subject: string, payload: Uint8Array, context: NexContext): Promise<NexResult> {
  const store = hostServices.async.objectStore;
  const action = subject.split(".").at(-1);
  if (action === "list") return await store.list();
  const name = context.headers.Name?.[0];
  if (name === undefined) throw new Error("which document? Say so in the header Name");
  switch (action) {
    case "put":
      return await store.put(name, payload);
    case "get": {
      const document = await store.get(name);
      if (document === null) context.replyHeaders.Missing = name;
      return document;
    }
    case "info":
      return await store.info(name);
    case "delete":
      return await store.delete(name);
    default:
      throw new Error(`put, get, info, delete or list, not '${action}'`);
  }
}
