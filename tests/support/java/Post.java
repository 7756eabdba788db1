import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.WebSocket;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.TimeUnit;

/** Posts twice and echoes over a WebSocket, with a client as Java makes it: it offers HTTP/2 with each request. */
class Post {
    public static void main(String[] words) throws Exception {
        HttpClient client = HttpClient.newHttpClient();
        for (int at = 0; at < 2; at++) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(words[0] + "/v1/java"))
                .POST(HttpRequest.BodyPublishers.ofString("x".repeat(100000)))
                .build();
            HttpResponse<String> response = client.send(request, HttpResponse.BodyHandlers.ofString());
            System.out.println(response.version() + " " + response.statusCode() + " " + response.body().length());
        }
        CompletableFuture<String> received = new CompletableFuture<>();
        WebSocket session = client.newWebSocketBuilder()
            .buildAsync(URI.create(words[0].replace("http", "ws") + "/v1/stream"), new WebSocket.Listener() {
                @Override
                public CompletionStage<?> onText(WebSocket socket, CharSequence data, boolean last) {
                    received.complete(data.toString());
                    return null;
                }
            })
            .get(20, TimeUnit.SECONDS);
        session.sendText("hello", true);
        System.out.println(received.get(20, TimeUnit.SECONDS));
        session.sendClose(WebSocket.NORMAL_CLOSURE, "").get(20, TimeUnit.SECONDS);
    }
}
