// The client.
import { randomUUID } from "node:crypto";
import { type DescMessage, type DescService, type MessageInitShape, create } from "@bufbuild/protobuf";
import { type Client as Stub, createClient } from "@connectrpc/connect";
import { type Channel, openChannel } from "./channel.js";
import { type Decision, type Denied, type Query, decisionOf, requestOf, unsendable } from "./decision.js";
import { ServiceError } from "./errors.js";
import { AuthorizationService, BatchAuthorizeResponseSchema } from "./gen/skilder/keys/v1/authorization_service_pb.js";
import {
  type ApplyWorkspaceRequestSchema,
  type ApplyWorkspaceResponse,
  CatalogService,
  type GetWorkspaceRequestSchema,
  type GetWorkspaceResponse,
} from "./gen/skilder/keys/v1/catalog_service_pb.js";
import type { Key } from "./gen/skilder/keys/v1/key_pb.js";
import {
  type CountKeysRequestSchema,
  type CountKeysResponse,
  type GetKeyRequestSchema,
  type IssueKeyRequestSchema,
  KeyService,
  type ListKeysRequestSchema,
  type RevokeKeyRequestSchema,
  type RevokeKeyResponse,
  type RevokeKeysRequestSchema,
  type RevokeKeysResponse,
  type RotateKeyRequestSchema,
  type UpdateKeyRequestSchema,
} from "./gen/skilder/keys/v1/key_service_pb.js";
import { IssuedKey } from "./issued-key.js";
import type { ClientOptions } from "./options.js";
import { type ReadToolSet, joined, withToolSets } from "./tool-sets.js";

/** Options of a call. */
export interface CallOptions {
  /** The time that the call may take with all its tries, in milliseconds. */
  readonly timeoutMs?: number;
  /** Ends the call when it is aborted. */
  readonly signal?: AbortSignal;
}

/** A query about a token. */
export type TokenQuery = Query & { readonly token: string };

/**
 * A client of Skilder Keys. Keep one for each process. Methods throw a ServiceError if the call failed, which says
 * nothing about a token. They take plain objects with the fields of the contract's messages.
 */
export class Client {
  readonly #channel: Channel;
  readonly #authorization: Stub<typeof AuthorizationService>;
  readonly #catalog: Stub<typeof CatalogService>;
  readonly #keys: Stub<typeof KeyService>;

  /**
   * @param target HOST:PORT of the service.
   * @param options With which credentials, and whether without TLS.
   */
  constructor(target: string, options: ClientOptions = {}) {
    this.#channel = openChannel(target, options);
    this.#authorization = this.stub(AuthorizationService);
    this.#catalog = this.stub(CatalogService);
    this.#keys = this.stub(KeyService);
  }

  /** Return a Connect client for a service of the contract, with this client's connection, deadlines and retries. */
  stub<S extends DescService>(service: S): Stub<S> {
    return createClient(service, this.#channel.transport);
  }

  /** Close the connection. Calls under way fail. */
  close(): void {
    this.#channel.close();
  }

  /** Decide about a token that an agent presented. Let it through only if the decision's `kind` is "granted". */
  async authorize(token: string, query: Query & CallOptions = {}): Promise<Decision> {
    const request = requestOf(token, query);
    return unsendable(token) ?? decisionOf(request, await called(this.#authorization.authorize(request, callOptions(query))));
  }

  /** Decide about up to 1,000 tokens. The decisions have the order of the queries. */
  async batchAuthorize(queries: readonly TokenQuery[], options: CallOptions = {}): Promise<Decision[]> {
    const requests = queries.map((query) => ({ request: requestOf(query.token, query), local: unsendable(query.token) }));
    const sent = requests.filter(({ local }) => local === undefined).map(({ request }) => request);
    const { responses, toolSets } =
      sent.length === 0 && queries.length > 0
        ? create(BatchAuthorizeResponseSchema)
        : await called(this.#authorization.batchAuthorize({ requests: sent }, callOptions(options)));
    if (responses.length !== sent.length) {
      throw new ServiceError("INTERNAL", `The service made ${responses.length} decisions about ${sent.length} tokens.`);
    }
    const received = responses.values();
    const decisions = requests.map(({ request, local }) => local ?? decisionOf(request, received.next().value!));
    const filled = withToolSets(decisions, toolSets);
    return Promise.all(filled.map((decision, index) => this.#whole(decision, queries[index]!, options)));
  }

  /** Read everything that a token reaches, however large it is. The query may have `mcpServer`, `view` and `sourceIp`. */
  async readToolSet(token: string, query: Omit<Query, "toolId" | "tool"> & CallOptions = {}): Promise<ReadToolSet | Denied> {
    const request = requestOf(token, query);
    return unsendable(token) ?? called(joined(this.#authorization.readToolSet({ request }, callOptions(query))));
  }

  /** Issue a key. Without a `requestId` the client makes one. To try again after an outage, name your own, and name it again. */
  async issueKey(request: Init<typeof IssueKeyRequestSchema>, options: CallOptions = {}): Promise<IssuedKey> {
    const { key, token } = await called(this.#keys.issueKey({ ...request, requestId: request.requestId || randomUUID() }, callOptions(options)));
    return new IssuedKey(present(key, "key"), token);
  }

  /** Rotate a key: return its successor. The `requestId` is as for `issueKey`. */
  async rotateKey(request: Init<typeof RotateKeyRequestSchema>, options: CallOptions = {}): Promise<IssuedKey> {
    const response = await called(this.#keys.rotateKey({ ...request, requestId: request.requestId || randomUUID() }, callOptions(options)));
    return new IssuedKey(present(response.key, "key"), response.token, response.predecessor);
  }

  /** Return a key. */
  async getKey(request: Init<typeof GetKeyRequestSchema>, options: CallOptions = {}): Promise<Key> {
    return present((await called(this.#keys.getKey(request, callOptions(options)))).key, "key");
  }

  /** List keys, newest first. Pages are read as the loop reaches them. The options hold for each page. */
  async *listKeys(request: Init<typeof ListKeysRequestSchema>, options: CallOptions = {}): AsyncGenerator<Key, void, undefined> {
    let pageToken = request.pageToken ?? "";
    do {
      const page = await called(this.#keys.listKeys({ ...request, pageToken }, callOptions(options)));
      yield* page.keys;
      if (page.nextPageToken === pageToken && pageToken !== "") {
        throw new ServiceError("INTERNAL", "The service sent the same page again.");
      }
      pageToken = page.nextPageToken;
    } while (pageToken !== "");
  }

  /** Count keys. */
  countKeys(request: Init<typeof CountKeysRequestSchema>, options: CallOptions = {}): Promise<CountKeysResponse> {
    return called(this.#keys.countKeys(request, callOptions(options)));
  }

  /** Change fields of a key: those that `updateMask` names. */
  async updateKey(request: Init<typeof UpdateKeyRequestSchema>, options: CallOptions = {}): Promise<Key> {
    return present((await called(this.#keys.updateKey(request, callOptions(options)))).key, "key");
  }

  /** Revoke a key, by `target: { case: "keyId", value }` or by its token. */
  revokeKey(request: Init<typeof RevokeKeyRequestSchema>, options: CallOptions = {}): Promise<RevokeKeyResponse> {
    return called(this.#keys.revokeKey(request, callOptions(options)));
  }

  /** Revoke all keys that match. */
  revokeKeys(request: Init<typeof RevokeKeysRequestSchema>, options: CallOptions = {}): Promise<RevokeKeysResponse> {
    return called(this.#keys.revokeKeys(request, callOptions(options)));
  }

  /** Make a workspace exactly what is given. */
  applyWorkspace(request: Init<typeof ApplyWorkspaceRequestSchema>, options: CallOptions = {}): Promise<ApplyWorkspaceResponse> {
    return called(this.#catalog.applyWorkspace(request, callOptions(options)));
  }

  /** Return a workspace and its version. */
  getWorkspace(request: Init<typeof GetWorkspaceRequestSchema>, options: CallOptions = {}): Promise<GetWorkspaceResponse> {
    return called(this.#catalog.getWorkspace(request, callOptions(options)));
  }

  /** Read the tool set of a grant that names it by a version which neither the response has nor the caller holds. */
  async #whole(decision: Decision, query: TokenQuery, options: CallOptions): Promise<Decision> {
    const { token, toolSetVersion, ...scope } = query;
    if (
      decision.kind === "denied" ||
      decision.tool !== undefined ||
      decision.toolSet !== undefined ||
      decision.toolSetVersion === "" ||
      decision.toolSetVersion === toolSetVersion
    ) {
      return decision;
    }
    const read = await this.readToolSet(token, { ...scope, ...options });
    // The key may have been revoked since the decision.
    return read.kind === "denied" ? read : { ...decision, toolSet: read.toolSet, toolSetVersion: read.toolSet.version };
  }
}

/** The fields of a request, as a plain object. */
type Init<S extends DescMessage> = Plain<MessageInitShape<S>>;
type Plain<T> = T extends { $typeName: string } ? never : T;

function callOptions({ timeoutMs, signal }: CallOptions): { timeoutMs?: number; signal?: AbortSignal } {
  return { ...(timeoutMs === undefined ? {} : { timeoutMs }), ...(signal === undefined ? {} : { signal }) };
}

async function called<T>(call: Promise<T>): Promise<T> {
  try {
    return await call;
  } catch (error) {
    throw error instanceof TypeError ? error : ServiceError.from(error);
  }
}

function present<T>(value: T | undefined, name: string): T {
  if (value === undefined) {
    throw new ServiceError("INTERNAL", `The response has no ${name}.`);
  }
  return value;
}
