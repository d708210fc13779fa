package dev.skilder.keys.client;

import dev.skilder.keys.v1.AuthorizationServiceGrpc;
import dev.skilder.keys.v1.AuthorizationServiceGrpc.AuthorizationServiceBlockingStub;
import dev.skilder.keys.v1.AuthorizeRequest;
import dev.skilder.keys.v1.BatchAuthorizeRequest;
import dev.skilder.keys.v1.Granted;
import dev.skilder.keys.v1.ReadToolSetRequest;
import dev.skilder.keys.v1.ToolSet;
import io.grpc.Channel;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.function.Function;
import java.util.stream.Collectors;

/** Asks what tokens may do. Every method returns decisions, or throws a ServiceException: never one for the other. */
public final class Authorizer {
  // The largest request. A token of this length is none, and cannot be sent.
  private static final int LARGEST_TOKEN = 64 << 10;

  private final AuthorizationServiceBlockingStub stub;
  private final Duration timeout;

  /** Ask with the deadlines of the channel. */
  public Authorizer(Channel channel) {
    this(channel, null);
  }

  /** Ask with a deadline that is sooner than the channel's, or null. */
  public Authorizer(Channel channel, Duration timeout) {
    stub = AuthorizationServiceGrpc.newBlockingStub(channel);
    this.timeout = timeout;
  }

  /** Decide about a token. */
  public Decision authorize(AuthorizeRequest request) {
    if (!sendable(request)) {
      return Decision.Denied.MALFORMED;
    }
    return Decision.of(request, call(stub -> stub.authorize(request)));
  }

  /** Decide about many tokens, in their order. Grants have their tool sets. */
  public List<Decision> authorizeAll(List<AuthorizeRequest> requests) {
    var sent = requests.stream().filter(Authorizer::sendable).toList();
    if (sent.isEmpty() && !requests.isEmpty()) {
      return requests.stream().<Decision>map(request -> Decision.Denied.MALFORMED).toList();
    }
    var batch = BatchAuthorizeRequest.newBuilder().addAllRequests(sent).build();
    var response = call(stub -> stub.batchAuthorize(batch));
    if (response.getResponsesCount() != sent.size()) {
      throw failed("The response has not one decision for each request.");
    }
    var toolSets = response.getToolSetsList().stream()
        .collect(Collectors.toMap(ToolSet::getVersion, Function.identity(), (first, second) -> first));
    var responses = response.getResponsesList().iterator();
    return requests.stream()
        .map(request -> sendable(request)
            ? filled(request, Decision.of(request, responses.next()), toolSets)
            : Decision.Denied.MALFORMED)
        .toList();
  }

  private Decision filled(AuthorizeRequest request, Decision decision, Map<String, ToolSet> toolSets) {
    if (!(decision instanceof Decision.Granted granted) || !granted.response().hasToolSetVersion()) {
      return decision;
    }
    var version = granted.response().getToolSetVersion();
    if (toolSets.containsKey(version)) {
      return new Decision.Granted(granted.response().toBuilder().setToolSet(toolSets.get(version)).build());
    }
    if (version.equals(request.getToolSetVersion())) {
      return decision;
    }
    return withToolSet(granted.response(), readToolSet(request));
  }

  /** Decide about a token as authorize does, with all that it reaches, however much it is. The grant has no key. */
  public Decision readToolSet(AuthorizeRequest request) {
    if (!sendable(request)) {
      return Decision.Denied.MALFORMED;
    }
    return call(stub -> {
      var whole = ToolSet.newBuilder();
      var parts = stub.readToolSet(ReadToolSetRequest.newBuilder().setRequest(request).build());
      while (parts.hasNext()) {
        var part = parts.next();
        if (part.hasDenied()) {
          return Decision.of(part.getDenied());
        }
        var version = part.getToolSet().getVersion();
        if (version.isEmpty() || !whole.getVersion().isEmpty() && !whole.getVersion().equals(version)) {
          throw failed("The parts are not of one tool set.");
        }
        whole.mergeFrom(part.getToolSet());
      }
      if (whole.getVersion().isEmpty()) {
        throw failed("The response has no tool set.");
      }
      return new Decision.Granted(Granted.newBuilder().setToolSet(whole).build());
    });
  }

  /** Put the tool set that a grant names into it. */
  private static Decision withToolSet(Granted granted, Decision toolSet) {
    if (toolSet instanceof Decision.Granted read) {
      return new Decision.Granted(granted.toBuilder().setToolSet(read.response().getToolSet()).build());
    }
    return toolSet;
  }

  private <T> T call(Function<AuthorizationServiceBlockingStub, T> method) {
    try {
      return method.apply(
          timeout == null ? stub : stub.withDeadlineAfter(timeout.toNanos(), TimeUnit.NANOSECONDS));
    } catch (StatusRuntimeException error) {
      throw new ServiceException(error);
    }
  }

  private static ServiceException failed(String why) {
    return new ServiceException(Status.INTERNAL.withDescription(why).asRuntimeException());
  }

  /** Return whether the token can be sent. What else cannot be would be sent as something else, so it is refused. */
  private static boolean sendable(AuthorizeRequest request) {
    var name = request.getToolName();
    for (var each : List.of(request.getToolId(), request.getMcpServer(), name.getMcpServer(), name.getName(),
        request.getSourceIp(), request.getToolSetVersion())) {
      if (!isText(each)) {
        throw new ServiceException(Status.INVALID_ARGUMENT
            .withDescription("A field of the request is not valid Unicode.").asRuntimeException());
      }
    }
    var token = request.getToken();
    return token.length() <= LARGEST_TOKEN
        && isText(token)
        && token.getBytes(StandardCharsets.UTF_8).length <= LARGEST_TOKEN;
  }

  private static boolean isText(String value) {
    return StandardCharsets.UTF_8.newEncoder().canEncode(value);
  }
}
