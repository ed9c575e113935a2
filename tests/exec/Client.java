import java.net.HttpURLConnection;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;

/** Sends one request with each client of the JDK, and prints what came back. */
public class Client {
    public static void main(String[] arguments) throws Exception {
        URI url = URI.create(arguments[0]);
        if (arguments[1].equals("HttpClient")) {
            HttpRequest request = HttpRequest.newBuilder(url).build();
            System.out.println(HttpClient.newHttpClient().send(request, HttpResponse.BodyHandlers.ofString()).body());
        } else {
            HttpURLConnection connection = (HttpURLConnection) url.toURL().openConnection();
            System.out.println(new String(connection.getInputStream().readAllBytes()));
        }
    }
}
