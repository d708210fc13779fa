package dev.skilder.keys.client;

import com.google.gson.Gson;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ChannelCredentials;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.ForwardingClientCall.SimpleForwardingClientCall;
import io.grpc.Grpc;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.function.Supplier;

/** Channels to the service. Keep one for each process and share it. */
public final class Channels {
  private static final Metadata.Key<String> AUTHORIZATION =
      Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER);
  private static final int LARGEST_RESPONSE = 16 << 20;

  private Channels() {}

  /**
   * Open a channel with the deadlines and retries of docs/service-config.json. A deadline of a stub can only be sooner.
   *
   * @param target the service, such as {@code keys.example.com:443}
   * @param credentials {@code TlsChannelCredentials}; {@code InsecureChannelCredentials} sends tokens that anybody on
   *     the way can read, so it is for this machine alone
   * @param callerToken returns the caller's token; asked for each call, so that it may read a file that changes
   */
  public static ManagedChannel open(String target, ChannelCredentials credentials, Supplier<String> callerToken) {
    return Grpc.newChannelBuilder(target, credentials)
        .intercept(new Bearer(callerToken))
        .defaultServiceConfig(serviceConfig())
        .disableServiceConfigLookUp()
        .maxInboundMessageSize(LARGEST_RESPONSE)
        .keepAliveTime(30, TimeUnit.SECONDS)
        .keepAliveTimeout(10, TimeUnit.SECONDS)
        .build();
  }

  @SuppressWarnings("unchecked")
  private static Map<String, ?> serviceConfig() {
    try (var resource = Channels.class.getResourceAsStream("service-config.json");
        var reader = new InputStreamReader(resource, StandardCharsets.UTF_8)) {
      return new Gson().fromJson(reader, Map.class);
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    }
  }

  /** Sends the caller's token with each call. It has no toString that shows it. */
  private static final class Bearer implements ClientInterceptor {
    private final Supplier<String> token;

    Bearer(Supplier<String> token) {
      this.token = token;
    }

    @Override
    public <I, O> ClientCall<I, O> interceptCall(MethodDescriptor<I, O> method, CallOptions options, Channel next) {
      return new SimpleForwardingClientCall<>(next.newCall(method, options)) {
        @Override
        public void start(Listener<O> listener, Metadata headers) {
          headers.put(AUTHORIZATION, "Bearer " + read());
          super.start(listener, headers);
        }
      };
    }

    /** Return the token. Without one there is no decision, which is an outage for whoever asks for it. */
    private String read() {
      try {
        return token.get().strip();
      } catch (RuntimeException error) {
        throw Status.UNAVAILABLE.withDescription("The caller's token cannot be read.").withCause(error)
            .asRuntimeException();
      }
    }
  }
}
