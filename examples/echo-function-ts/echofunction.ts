/** What a function is told about the call besides its subject and payload; the part that this example uses. */
interface Context {
  /** The workload that was called: the name and the namespace it was deployed under. */
  workload: { name: string; namespace: string };
}

/** Answers with its payload, and says in the log who was asked what. */
export default function echo(subject: string, payload: Uint8Array, { workload }: Context): Uint8Array {
  console.log(`${workload.namespace}/${workload.name}: ${payload.length} bytes on ${subject}`);
  return payload;
}
