// Whole tool sets, which the service sends in parts.
import { create } from "@bufbuild/protobuf";
import { type Decision, type Denied, deniedOf, unclear } from "./decision.js";
import { ServiceError } from "./errors.js";
import { type ReadToolSetResponse, type ToolSet, ToolSetSchema } from "./gen/skilder/keys/v1/authorization_service_pb.js";

/** Everything that a token reaches. */
export interface ReadToolSet {
  readonly kind: "granted";
  readonly toolSet: ToolSet;
}

/** Join the parts of a tool set. It is whole if the call ends well. */
export async function joined(parts: AsyncIterable<ReadToolSetResponse>): Promise<ReadToolSet | Denied> {
  let whole: ToolSet | undefined;
  let denied: Denied | undefined;
  for await (const { part } of parts) {
    if (part.case !== "toolSet") {
      denied ??= part.case === "denied" ? deniedOf(part.value) : unclear();
    } else if (whole === undefined) {
      whole = create(ToolSetSchema, part.value);
    } else if (whole.version !== part.value.version) {
      throw new ServiceError("INTERNAL", "The parts of the tool set have different versions.");
    } else {
      append(whole.hats, part.value.hats);
      append(whole.tools, part.value.tools);
      append(whole.skills, part.value.skills);
    }
  }
  // To go on after a denial until the call has ended costs nothing, and shows whether it ended well.
  return denied ?? (whole === undefined ? unclear() : { kind: "granted", toolSet: whole });
}

/** Put in the tool sets that grants name by their version. */
export function withToolSets(decisions: readonly Decision[], toolSets: readonly ToolSet[]): Decision[] {
  const byVersion = new Map(toolSets.map((each) => [each.version, each]));
  return decisions.map((decision) => {
    if (decision.kind === "denied" || decision.tool !== undefined || decision.toolSet !== undefined) {
      return decision;
    }
    const toolSet = byVersion.get(decision.toolSetVersion);
    return toolSet === undefined ? decision : { ...decision, toolSet };
  });
}

function append<T>(list: T[], more: readonly T[]): void {
  // Not `push(...more)`: a part may have more elements than a call may have arguments.
  for (const each of more) {
    list.push(each);
  }
}
