import com.google.protobuf.DebugFormat;
import com.google.rpc.ErrorInfo;
import dev.skilder.keys.v1.ApplyWorkspaceRequest;
import dev.skilder.keys.v1.AuditServiceGrpc;
import dev.skilder.keys.v1.AuthorizationServiceGrpc;
import dev.skilder.keys.v1.AuthorizeRequest;
import dev.skilder.keys.v1.AuthorizeResponse;
import dev.skilder.keys.v1.CatalogServiceGrpc;
import dev.skilder.keys.v1.Denied;
import dev.skilder.keys.v1.ErrorReason;
import dev.skilder.keys.v1.FollowEventsRequest;
import dev.skilder.keys.v1.Granted;
import dev.skilder.keys.v1.Hat;
import dev.skilder.keys.v1.HatAudience;
import dev.skilder.keys.v1.HatLimit;
import dev.skilder.keys.v1.IssueKeyRequest;
import dev.skilder.keys.v1.KeyFilter;
import dev.skilder.keys.v1.KeyServiceGrpc;
import dev.skilder.keys.v1.KeyState;
import dev.skilder.keys.v1.KeyType;
import dev.skilder.keys.v1.ListKeysRequest;
import dev.skilder.keys.v1.ReadToolSetRequest;
import dev.skilder.keys.v1.Skill;
import dev.skilder.keys.v1.SuspendKeyRequest;
import dev.skilder.keys.v1.Tool;
import dev.skilder.keys.v1.Workspace;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.MetadataUtils;
import java.nio.file.Files;
import java.nio.file.Path;

/** Use the API as a program in Java does, and print what it sees: Calls HOST:PORT CALLER-TOKEN-FILE */
public class Calls {
  public static void main(String[] args) throws Exception {
    var headers = new Metadata();
    headers.put(
        Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER),
        "Bearer " + Files.readString(Path.of(args[1])).strip());
    var channel = Grpc.newChannelBuilder(args[0], InsecureChannelCredentials.create())
        .intercept(MetadataUtils.newAttachHeadersInterceptor(headers))
        .build();
    var keys = KeyServiceGrpc.newBlockingStub(channel);
    var authorization = AuthorizationServiceGrpc.newBlockingStub(channel);

    var applied = CatalogServiceGrpc.newBlockingStub(channel).applyWorkspace(
        ApplyWorkspaceRequest.newBuilder().setWorkspace(workspace()).setExpectedVersion(0).build());
    System.out.println("applied " + applied.getVersion() + " " + applied.getChangesCount());

    var issued = keys.issueKey(IssueKeyRequest.newBuilder()
        .setType(KeyType.KEY_TYPE_WORKSPACE)
        .setWorkspaceId("acme")
        .setDescription("Slack Support Bot")
        .setHatLimit(HatLimit.newBuilder().addHatIds("support"))
        .build());
    System.out.println("issued " + issued.getKey().getType() + " " + issued.getToken().length());

    var page = keys.listKeys(ListKeysRequest.newBuilder()
        .setWorkspaceId("acme")
        .setFilter(KeyFilter.newBuilder().addStates(KeyState.KEY_STATE_ACTIVE))
        .build());
    System.out.println("listed " + page.getKeysCount() + " " + page.getKeys(0).getState());

    var token = AuthorizeRequest.newBuilder().setToken(issued.getToken());
    System.out.println(ask(authorization, token.build()));
    for (var toolId : new String[] {"slack.post", "git.push", ""}) {
      System.out.println(ask(authorization, token.clone().setToolId(toolId).build()));
    }

    int tools = 0;
    var parts = authorization.readToolSet(ReadToolSetRequest.newBuilder().setRequest(token).build());
    while (parts.hasNext()) {
      tools += parts.next().getToolSet().getToolsCount();
    }
    System.out.println("read " + tools);

    // Each response has the cursor with which another call goes on.
    var audit = AuditServiceGrpc.newBlockingStub(channel);
    var follow = FollowEventsRequest.newBuilder().setWorkspaceId("acme");
    var first = audit.followEvents(follow.setAfterNumber(0).build()).next();
    System.out.println("followed " + first.getEventsCount());
    keys.suspendKey(SuspendKeyRequest.newBuilder().setKeyId(issued.getKey().getId()).build());
    var next = audit.followEvents(follow.setCursor(first.getCursor()).build()).next();
    System.out.println("followed " + next.getEventsCount());

    // A newer server may send a value that this program does not know.
    var newer = Denied.parseFrom(new byte[] {8, 77});
    System.out.println("unknown " + newer.getReasonValue() + " " + newer.getReason());
    System.out.println("redacted " + DebugFormat.singleLine().toString(issued));
    System.out.println("printed " + issued.toString().replace('\n', ' '));
    channel.shutdownNow();
  }

  /** Return the decision, or why there is none. */
  private static String ask(
      AuthorizationServiceGrpc.AuthorizationServiceBlockingStub service, AuthorizeRequest request) {
    AuthorizeResponse response;
    try {
      response = service.authorize(request);
    } catch (StatusRuntimeException error) {
      return "refused " + reason(error);
    }
    switch (response.getVerdictCase()) {
      case GRANTED:
        Granted granted = response.getGranted();
        if (granted.hasToolSet()) {
          return "granted tool_set " + granted.getToolSet().getToolsCount();
        }
        return granted.hasTool() ? "granted tool " + granted.getTool().getTool().getName() : "not granted";
      case DENIED:
        return "denied " + response.getDenied().getReason();
      default:
        return "not granted";
    }
  }

  /** Return the constant for the reason of a failed call. */
  private static ErrorReason reason(StatusRuntimeException error) {
    for (var detail : StatusProto.fromThrowable(error).getDetailsList()) {
      if (detail.is(ErrorInfo.class)) {
        try {
          return ErrorReason.valueOf("ERROR_REASON_" + detail.unpack(ErrorInfo.class).getReason());
        } catch (com.google.protobuf.InvalidProtocolBufferException wrong) {
          throw new IllegalStateException(wrong);
        }
      }
    }
    return ErrorReason.ERROR_REASON_UNSPECIFIED;
  }

  private static Workspace workspace() {
    return Workspace.newBuilder()
        .setId("acme")
        .setName("Acme")
        .addHats(Hat.newBuilder()
            .setId("support").setName("Support").addSkillIds("slack").setAudience(HatAudience.HAT_AUDIENCE_WORKSPACE))
        .addSkills(Skill.newBuilder()
            .setId("slack").setName("Slack").addToolIds("slack.history").addToolIds("slack.post"))
        .addTools(Tool.newBuilder().setId("slack.history").setName("history").setMcpServer("slack"))
        .addTools(Tool.newBuilder().setId("slack.post").setName("post").setMcpServer("slack"))
        .addTools(Tool.newBuilder().setId("git.push").setName("push").setMcpServer("git"))
        .build();
  }
}
