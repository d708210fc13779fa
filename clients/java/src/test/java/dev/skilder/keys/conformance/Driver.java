package dev.skilder.keys.conformance;

import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import dev.skilder.keys.client.Authorizer;
import dev.skilder.keys.client.Channels;
import dev.skilder.keys.client.Decision;
import dev.skilder.keys.client.ServiceException;
import dev.skilder.keys.v1.AuthorizeRequest;
import dev.skilder.keys.v1.DenialReason;
import dev.skilder.keys.v1.ErrorReason;
import dev.skilder.keys.v1.IssueKeyRequest;
import dev.skilder.keys.v1.KeyServiceGrpc;
import dev.skilder.keys.v1.KeyType;
import dev.skilder.keys.v1.ListKeysRequest;
import dev.skilder.keys.v1.ReachedTool;
import dev.skilder.keys.v1.ToolName;
import dev.skilder.keys.v1.ToolSetView;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.TimeUnit;

/** Runs the cases of clients/conformance: a JSON object for each call on standard input, one for its end on output. */
public final class Driver {
  private static final Gson GSON = new GsonBuilder().serializeNulls().create();

  public static void main(String[] args) throws Exception {
    var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    var out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    warmUp();
    for (String line = lines.readLine(); line != null; line = lines.readLine()) {
      var request = GSON.fromJson(line, JsonObject.class);
      var response = new LinkedHashMap<String, Object>();
      response.put("id", text(request, "id"));
      response.putAll(run(request));
      out.println(GSON.toJson(response));
    }
  }

  /** Load the classes of a call before a deadline counts: on a busy machine that can take longer than a call may. */
  private static void warmUp() {
    var call = GSON.fromJson(
        "{target: '127.0.0.1:1', caller_token: 'none', timeout_ms: 60000, method: 'list_keys', args: {}}",
        JsonObject.class);
    run(call);
  }

  private static Map<String, Object> run(JsonObject request) {
    var callerToken = text(request, "caller_token");
    var channel = Channels.open(text(request, "target"), InsecureChannelCredentials.create(), () -> callerToken);
    Duration timeout = present(request, "timeout_ms") ? Duration.ofMillis(request.get("timeout_ms").getAsLong()) : null;
    try {
      return call(channel, timeout, text(request, "method"), request.getAsJsonObject("args"));
    } catch (StatusRuntimeException error) {
      return Map.of("error", error(new ServiceException(error)));
    } catch (ServiceException error) {
      return Map.of("error", error(error));
    } finally {
      channel.shutdownNow();
    }
  }

  private static Map<String, Object> call(ManagedChannel channel, Duration timeout, String method, JsonObject args) {
    var authorizer = new Authorizer(channel, timeout);
    switch (method) {
      case "authorize":
        return decision(authorizer.authorize(query(args)));
      case "batch_authorize":
        var queries = new ArrayList<AuthorizeRequest>();
        args.getAsJsonArray("queries").forEach(each -> queries.add(query(each.getAsJsonObject())));
        var decisions = authorizer.authorizeAll(queries).stream().map(Driver::decision).toList();
        return Map.of("value", Map.of("decisions", decisions));
      case "read_tool_set":
        var read = authorizer.readToolSet(query(args));
        return read instanceof Decision.Granted granted
            ? Map.of("value", toolSet(granted.response()))
            : decision(read);
      case "list_keys":
        return Map.of("value", Map.of("keyIds", keyIds(keys(channel, timeout), args)));
      case "issue_key":
        var keys = keys(channel, timeout);
        var issue = IssueKeyRequest.newBuilder()
            .setRequestId(present(args, "requestId") ? text(args, "requestId") : UUID.randomUUID().toString())
            .setType(KeyType.valueOf(text(args, "type")))
            .setWorkspaceId(text(args, "workspaceId"))
            .setDescription(text(args, "description"))
            .build();
        var issued = keys.issueKey(issue);
        return Map.of("value", Map.of("keyId", issued.getKey().getId(), "tokenLength", issued.getToken().length()));
      default:
        throw new IllegalArgumentException("no such method: " + method);
    }
  }

  private static KeyServiceGrpc.KeyServiceBlockingStub keys(ManagedChannel channel, Duration timeout) {
    var stub = KeyServiceGrpc.newBlockingStub(channel);
    return timeout == null ? stub : stub.withDeadlineAfter(timeout.toMillis(), TimeUnit.MILLISECONDS);
  }

  private static List<String> keyIds(KeyServiceGrpc.KeyServiceBlockingStub keys, JsonObject args) {
    var ids = new ArrayList<String>();
    var page = ListKeysRequest.newBuilder().setWorkspaceId(text(args, "workspaceId"));
    do {
      var response = keys.listKeys(page.build());
      response.getKeysList().forEach(key -> ids.add(key.getId()));
      page.setPageToken(response.getNextPageToken());
    } while (!page.getPageToken().isEmpty());
    return ids;
  }

  private static AuthorizeRequest query(JsonObject args) {
    var query = AuthorizeRequest.newBuilder().setToken(text(args, "token"));
    if (present(args, "toolId")) {
      query.setToolId(text(args, "toolId"));
    }
    if (present(args, "toolName")) {
      var tool = args.getAsJsonObject("toolName");
      query.setToolName(ToolName.newBuilder().setMcpServer(text(tool, "mcpServer")).setName(text(tool, "name")));
    }
    if (present(args, "mcpServer")) {
      query.setMcpServer(text(args, "mcpServer"));
    }
    if (present(args, "view")) {
      query.setView(ToolSetView.valueOf("TOOL_SET_VIEW_" + text(args, "view")));
    }
    return query.setToolSetVersion(text(args, "toolSetVersion")).setSourceIp(text(args, "sourceIp")).build();
  }

  private static Map<String, Object> decision(Decision decision) {
    if (decision instanceof Decision.Granted granted) {
      var response = granted.response();
      var shown = new LinkedHashMap<String, Object>();
      shown.put("keyId", response.getKey().getId());
      shown.put("workspaceId", response.getKey().getWorkspaceId());
      shown.put("userId", response.getKey().getUserId());
      shown.put("description", response.getKey().getDescription());
      if (response.hasTool()) {
        shown.put("toolId", response.getTool().getTool().getId());
      }
      shown.putAll(toolSet(response));
      return Map.of("granted", shown);
    }
    var denied = (Decision.Denied) decision;
    var known = denied.reason() != DenialReason.UNRECOGNIZED;
    var reason = known ? denied.reason().name().substring("DENIAL_REASON_".length()) : "";
    return Map.of("denied", Map.of(
        "reason", reason, "number", denied.number(), "message", denied.message(), "keyId", denied.keyId()));
  }

  private static Map<String, Object> toolSet(dev.skilder.keys.v1.Granted granted) {
    return switch (granted.getReachCase()) {
      case TOOL_SET -> Map.of(
          "toolIds", granted.getToolSet().getToolsList().stream().map(ReachedTool::getId).sorted().toList(),
          "toolSetVersion", granted.getToolSet().getVersion());
      case TOOL_SET_VERSION -> Map.of("toolSetVersion", granted.getToolSetVersion());
      default -> Map.of();
    };
  }

  private static Map<String, Object> error(ServiceException error) {
    var known = error.reason() != ErrorReason.ERROR_REASON_UNSPECIFIED;
    var reason = known ? error.reason().name().substring("ERROR_REASON_".length()) : "";
    var shown = new LinkedHashMap<String, Object>();
    shown.put("code", error.code().name());
    shown.put("reason", reason);
    shown.put("outage", error.isOutage());
    shown.put("retryAfterMs", error.retryAfter().map(Duration::toMillis).orElse(null));
    return shown;
  }

  private static boolean present(JsonObject object, String name) {
    JsonElement value = object.get(name);
    return value != null && !value.isJsonNull();
  }

  private static String text(JsonObject object, String name) {
    return present(object, name) ? object.get(name).getAsString() : "";
  }
}
