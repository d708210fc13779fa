package dev.skilder.keys.client;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import dev.skilder.keys.v1.ErrorReason;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.EnumSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Set;

/** A call failed. This says nothing about the token: it is neither good nor bad. */
public final class ServiceException extends RuntimeException {
  private static final long serialVersionUID = 1;
  private static final String DOMAIN = "keys.skilder";
  // In seconds. A longer one is a mistake.
  private static final long LONGEST_PAUSE = 86_400;
  // An error of any other kind is not of the request: what answers may even be another server than Skilder Keys.
  private static final Set<Status.Code> CALLERS_FAULT = EnumSet.of(
      Status.Code.CANCELLED,
      Status.Code.INVALID_ARGUMENT,
      Status.Code.NOT_FOUND,
      Status.Code.ALREADY_EXISTS,
      Status.Code.PERMISSION_DENIED,
      Status.Code.FAILED_PRECONDITION,
      Status.Code.ABORTED,
      Status.Code.OUT_OF_RANGE,
      Status.Code.UNAUTHENTICATED);

  private final Status.Code code;
  private final transient List<Any> details;

  /** Read the status of a failed call. */
  public ServiceException(StatusRuntimeException error) {
    super(error.getStatus().getCode() + ": " + error.getStatus().getDescription(), error);
    code = error.getStatus().getCode();
    details = StatusProto.fromThrowable(error).getDetailsList();
  }

  public Status.Code code() {
    return code;
  }

  /** Return why, as the service says it; ERROR_REASON_UNSPECIFIED if it does not, or if these stubs do not know it. */
  public ErrorReason reason() {
    try {
      return ErrorReason.valueOf("ERROR_REASON_" + info().map(ErrorInfo::getReason).orElse("UNSPECIFIED"));
    } catch (IllegalArgumentException unknown) {
      return ErrorReason.ERROR_REASON_UNSPECIFIED;
    }
  }

  /** Return what the reason is about, such as {@code key_id}. */
  public Map<String, String> metadata() {
    return info().map(ErrorInfo::getMetadataMap).orElse(Map.of());
  }

  /** Return how long to wait before the next try, if the service says so. */
  public Optional<Duration> retryAfter() {
    return detail(RetryInfo.class)
        .map(RetryInfo::getRetryDelay)
        .filter(delay -> delay.getSeconds() >= 0 && delay.getSeconds() <= LONGEST_PAUSE && delay.getNanos() >= 0)
        .map(delay -> Duration.ofSeconds(delay.getSeconds(), delay.getNanos()));
  }

  /** Return whether the service cannot be asked now, and not that the request or the caller is wrong. */
  public boolean isOutage() {
    return !CALLERS_FAULT.contains(code);
  }

  private Optional<ErrorInfo> info() {
    return detail(ErrorInfo.class).filter(info -> info.getDomain().equals(DOMAIN));
  }

  private <T extends Message> Optional<T> detail(Class<T> type) {
    for (Any detail : details == null ? List.<Any>of() : details) {
      if (detail.is(type)) {
        try {
          return Optional.of(detail.unpack(type));
        } catch (InvalidProtocolBufferException damaged) {
          return Optional.empty();
        }
      }
    }
    return Optional.empty();
  }
}
