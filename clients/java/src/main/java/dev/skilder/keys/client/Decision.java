package dev.skilder.keys.client;

import dev.skilder.keys.v1.AuthorizeRequest;
import dev.skilder.keys.v1.AuthorizeResponse;
import dev.skilder.keys.v1.DenialReason;
import dev.skilder.keys.v1.ReachedTool;
import dev.skilder.keys.v1.ToolSetView;

/** What the service decided about a token. Only a Granted lets a call through. */
public sealed interface Decision {

  /** The token is valid, and reaches what the request asked about. */
  record Granted(dev.skilder.keys.v1.Granted response) implements Decision {}

  /**
   * The token is not valid, or does not reach what the request asked about.
   *
   * @param reason UNRECOGNIZED for one that these stubs do not know
   * @param number the reason's number, also of one that is not known
   * @param keyId the key's id; empty if the token's secret was wrong
   */
  record Denied(DenialReason reason, int number, String message, String keyId) implements Decision {
    static final Denied MALFORMED = new Denied(
        DenialReason.DENIAL_REASON_MALFORMED,
        DenialReason.DENIAL_REASON_MALFORMED_VALUE,
        "This is not a token: it is too long, or is not text.",
        "");
    private static final Denied UNUSABLE = new Denied(
        DenialReason.DENIAL_REASON_UNSPECIFIED, 0, "The response does not grant what was asked about.", "");
  }

  /** Read a response. Whatever does not grant exactly what the request asked about is a denial. */
  static Decision of(AuthorizeRequest request, AuthorizeResponse response) {
    return switch (response.getVerdictCase()) {
      case GRANTED -> reaches(request, response.getGranted()) ? new Granted(response.getGranted()) : Denied.UNUSABLE;
      case DENIED -> of(response.getDenied());
      case VERDICT_NOT_SET -> Denied.UNUSABLE;
    };
  }

  /** Read a denial. */
  static Denied of(dev.skilder.keys.v1.Denied denied) {
    return new Denied(denied.getReason(), denied.getReasonValue(), denied.getMessage(), denied.getKeyId());
  }

  private static boolean reaches(AuthorizeRequest request, dev.skilder.keys.v1.Granted granted) {
    if (!granted.hasKey()) {
      return false;
    }
    ReachedTool tool = granted.getTool().getTool();
    return switch (request.getScopeCase()) {
      case TOOL_ID -> granted.hasTool() && tool.getId().equals(request.getToolId());
      case TOOL_NAME -> granted.hasTool()
          && tool.getName().equals(request.getToolName().getName())
          && tool.getMcpServer().equals(request.getToolName().getMcpServer());
      case MCP_SERVER, SCOPE_NOT_SET -> switch (granted.getReachCase()) {
        case TOOL_SET, TOOL_SET_VERSION -> request.getView() != ToolSetView.TOOL_SET_VIEW_NONE;
        case REACH_NOT_SET -> request.getView() == ToolSetView.TOOL_SET_VIEW_NONE;
        case TOOL -> false;
      };
    };
  }
}
