package dev.skilder.keys.client;

import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import java.time.Duration;
import java.util.concurrent.ThreadLocalRandom;
import java.util.function.Supplier;

/** Makes calls again that the channel does not repeat: IssueKey and RotateKey, whose requests have a request_id. */
public final class Repeatable {
  private static final int ATTEMPTS = 4;
  private static final Duration LONGEST_PAUSE = Duration.ofSeconds(2);

  private Repeatable() {}

  /**
   * Make a call, and make it again while the service is unavailable, at most four times.
   *
   * @param method the call, always with the same request and the same request_id
   * @throws ServiceException the call failed; if it is an outage, it may have been made all the same
   */
  public static <T> T call(Supplier<T> method) {
    var pause = Duration.ofMillis(100);
    for (int attempt = 1; ; attempt++) {
      try {
        return method.get();
      } catch (StatusRuntimeException error) {
        var failure = new ServiceException(error);
        if (failure.code() != Status.Code.UNAVAILABLE || attempt == ATTEMPTS) {
          throw failure;
        }
        sleep(failure.retryAfter().filter(wait -> wait.compareTo(LONGEST_PAUSE) < 0).orElse(random(pause)));
        pause = pause.multipliedBy(3).compareTo(LONGEST_PAUSE) < 0 ? pause.multipliedBy(3) : LONGEST_PAUSE;
      }
    }
  }

  private static Duration random(Duration longest) {
    return Duration.ofMillis(ThreadLocalRandom.current().nextLong(longest.toMillis() + 1));
  }

  private static void sleep(Duration pause) {
    try {
      Thread.sleep(pause.toMillis());
    } catch (InterruptedException interrupted) {
      Thread.currentThread().interrupt();
      throw new ServiceException(Status.CANCELLED.withDescription("interrupted").asRuntimeException());
    }
  }
}
