package dev.skilder.keys.example;

import com.google.protobuf.Duration;
import dev.skilder.keys.client.Authorizer;
import dev.skilder.keys.client.Channels;
import dev.skilder.keys.client.Decision;
import dev.skilder.keys.client.ServiceException;
import dev.skilder.keys.v1.ApplyWorkspaceRequest;
import dev.skilder.keys.v1.AuthorizeRequest;
import dev.skilder.keys.v1.CatalogServiceGrpc;
import dev.skilder.keys.v1.Hat;
import dev.skilder.keys.v1.HatAudience;
import dev.skilder.keys.v1.HatLimit;
import dev.skilder.keys.v1.IssueKeyRequest;
import dev.skilder.keys.v1.KeyServiceGrpc;
import dev.skilder.keys.v1.KeyType;
import dev.skilder.keys.v1.ListKeysRequest;
import dev.skilder.keys.v1.RevokeKeyRequest;
import dev.skilder.keys.v1.RevokeScope;
import dev.skilder.keys.v1.RotateKeyRequest;
import dev.skilder.keys.v1.Skill;
import dev.skilder.keys.v1.Tool;
import dev.skilder.keys.v1.Workspace;
import io.grpc.InsecureChannelCredentials;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.UUID;
import java.util.function.Supplier;
import java.util.stream.Collectors;

/** The life of a key: Walk HOST:PORT CALLER-TOKEN-FILE */
public final class Walk {
  public static void main(String[] args) throws Exception {
    var callerToken = Files.readString(Path.of(args[1]));
    var channel = Channels.open(args[0], InsecureChannelCredentials.create(), () -> callerToken);
    var keys = KeyServiceGrpc.newBlockingStub(channel);
    var authorizer = new Authorizer(channel);

    var apply = ApplyWorkspaceRequest.newBuilder().setWorkspace(workspace()).build();
    System.out.println("applied " + CatalogServiceGrpc.newBlockingStub(channel).applyWorkspace(apply).getVersion());

    // With a request_id, the same request can be sent again if its response was lost.
    var issue = IssueKeyRequest.newBuilder()
        .setRequestId(UUID.randomUUID().toString())
        .setType(KeyType.KEY_TYPE_WORKSPACE)
        .setWorkspaceId("walk-java")
        .setDescription("Slack Support Bot")
        .setHatLimit(HatLimit.newBuilder().addHatIds("support"))
        .setLifetime(Duration.newBuilder().setSeconds(90 * 86_400))
        .build();
    var issued = keys.issueKey(issue);
    System.out.println("issued " + issued.getKey().getDescription());

    int listed = 0;
    var page = ListKeysRequest.newBuilder().setWorkspaceId("walk-java").setPageSize(1);
    do {
      var response = keys.listKeys(page.build());
      listed += response.getKeysCount();
      page.setPageToken(response.getNextPageToken());
    } while (!page.getPageToken().isEmpty());
    System.out.println("listed " + listed);

    var post = AuthorizeRequest.newBuilder().setToken(issued.getToken()).setToolId("slack.post").build();
    var push = post.toBuilder().setToolId("git.push").build();
    System.out.println("authorized " + show(() -> authorizer.authorize(post)));
    System.out.println("batch " + authorizer.authorizeAll(List.of(post, push)).stream()
        .map(decision -> show(() -> decision)).collect(Collectors.joining(", ")));

    var rotate = RotateKeyRequest.newBuilder()
        .setRequestId(UUID.randomUUID().toString()).setKeyId(issued.getKey().getId()).build();
    var rotated = keys.rotateKey(rotate);
    var successor = post.toBuilder().setToken(rotated.getToken()).build();
    System.out.println("rotated " + show(() -> authorizer.authorize(successor)));

    keys.revokeKey(RevokeKeyRequest.newBuilder().setKeyId(rotated.getKey().getId())
        .setScope(RevokeScope.REVOKE_SCOPE_FAMILY).setReason("the walk is over").build());
    System.out.println("revoked " + show(() -> authorizer.authorize(successor)));

    var stranger = Channels.open(args[0], InsecureChannelCredentials.create(), () -> "not-a-caller");
    System.out.println("wrong caller " + show(() -> new Authorizer(stranger).authorize(post)));
    var hurried = new Authorizer(channel, java.time.Duration.ofNanos(1));
    System.out.println("deadline " + show(() -> hurried.authorize(post)));
    var nobody = Channels.open("127.0.0.1:1", InsecureChannelCredentials.create(), () -> callerToken);
    System.out.println("outage " + show(() -> new Authorizer(nobody).authorize(post)));
    for (var each : List.of(channel, stranger, nobody)) {
      each.shutdownNow();
    }
  }

  /** Let a call through only if it is granted. An outage is not a denial: the token may be good. */
  private static String show(Supplier<Decision> question) {
    try {
      var decision = question.get();
      if (decision instanceof Decision.Granted granted) {
        return "granted " + granted.response().getTool().getTool().getName();
      }
      return "denied " + ((Decision.Denied) decision).reason();
    } catch (ServiceException error) {
      return (error.isOutage() ? "no decision " : "wrong call ") + error.code() + " " + error.reason();
    }
  }

  private static Workspace workspace() {
    return Workspace.newBuilder().setId("walk-java").setName("Walk")
        .addHats(Hat.newBuilder().setId("support").setName("Support").addSkillIds("slack")
            .setAudience(HatAudience.HAT_AUDIENCE_WORKSPACE))
        .addSkills(Skill.newBuilder().setId("slack").setName("Slack").addToolIds("slack.post"))
        .addTools(Tool.newBuilder().setId("slack.post").setName("post").setMcpServer("slack"))
        .addTools(Tool.newBuilder().setId("git.push").setName("push").setMcpServer("git"))
        .build();
  }
}
