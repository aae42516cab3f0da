// The JDK's own HTTP client, eighty requests at once: `java Http2Java.java URL [KEYS.p12 PASSWORD]`. Prints "ok NAME" or "not ok NAME: PROBLEM".
// Over TLS it chooses HTTP/2 by ALPN; in cleartext it asks for it with `Upgrade: h2c`, which a server may pass over.

import java.io.ByteArrayInputStream;
import java.io.FileInputStream;
import java.net.Socket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.security.KeyStore;
import java.security.cert.X509Certificate;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.Executors;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLEngine;
import javax.net.ssl.TrustManager;
import javax.net.ssl.X509ExtendedTrustManager;

public class Http2Java {
    static final int REQUESTS = 2000;
    static final int AT_ONCE = 80;

    /** Whom we talk to is not what is tried here, and a SPIFFE certificate has no host name. */
    static class Anybody extends X509ExtendedTrustManager {
        public void checkClientTrusted(X509Certificate[] chain, String kind) {}
        public void checkServerTrusted(X509Certificate[] chain, String kind) {}
        public void checkClientTrusted(X509Certificate[] chain, String kind, Socket socket) {}
        public void checkServerTrusted(X509Certificate[] chain, String kind, Socket socket) {}
        public void checkClientTrusted(X509Certificate[] chain, String kind, SSLEngine engine) {}
        public void checkServerTrusted(X509Certificate[] chain, String kind, SSLEngine engine) {}
        public X509Certificate[] getAcceptedIssuers() { return new X509Certificate[0]; }
    }

    static SSLContext tls(String path, char[] password) throws Exception {
        KeyStore keys = KeyStore.getInstance("PKCS12");
        keys.load(new FileInputStream(path), password);
        KeyManagerFactory factory = KeyManagerFactory.getInstance("SunX509");
        factory.init(keys, password);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(factory.getKeyManagers(), new TrustManager[] {new Anybody()}, null);
        return context;
    }

    static HttpRequest request(String base, int number, byte[] body) {
        HttpRequest.Builder builder = HttpRequest.newBuilder(URI.create(base + (number % 4 == 3 ? "/bytes?n=" + body.length : "/echo")));
        switch (number % 4) {
            case 0: return builder.POST(HttpRequest.BodyPublishers.ofByteArray(body)).build();
            case 1: return builder.PUT(HttpRequest.BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(body))).build();
            case 2: return builder.POST(HttpRequest.BodyPublishers.noBody()).build();
            default: return builder.build();
        }
    }

    static String problem(int number, byte[] body, HttpResponse<byte[]> response, String version) {
        byte[] found = response.body();
        int wanted = number % 4 == 2 ? 0 : body.length;
        if (response.statusCode() != 200 || found.length != wanted) return response.statusCode() + ", " + found.length + " octets of " + wanted;
        if (number % 4 < 2 && !Arrays.equals(found, body)) return "other octets came back";
        return response.version().toString().equals(version) ? "" : response.version().toString();
    }

    public static void main(String[] arguments) throws Exception {
        System.setProperty("jdk.internal.httpclient.disableHostnameVerification", "true");
        boolean isSecure = arguments.length > 1;
        HttpClient.Builder builder = HttpClient.newBuilder().version(HttpClient.Version.HTTP_2).executor(Executors.newFixedThreadPool(16));
        if (isSecure) builder.sslContext(tls(arguments[1], arguments[2].toCharArray()));
        HttpClient client = builder.build();
        Random dice = new Random(3);
        Semaphore places = new Semaphore(AT_ONCE);
        Map<String, Integer> problems = new TreeMap<>();
        List<CompletableFuture<?>> running = new ArrayList<>();
        for (int i = 0; i < REQUESTS; i++) {
            int number = i;
            byte[] body = new byte[dice.nextInt(120_000)];
            dice.nextBytes(body);
            places.acquire();
            running.add(client.sendAsync(request(arguments[0], number, body), HttpResponse.BodyHandlers.ofByteArray()).handle((response, error) -> {
                places.release();
                String problem = error != null ? error.toString() : problem(number, body, response, isSecure ? "HTTP_2" : "HTTP_1_1");
                if (!problem.isEmpty()) synchronized (problems) { problems.merge(problem, 1, Integer::sum); }
                return null;
            }));
        }
        for (CompletableFuture<?> each : running) each.get(120, TimeUnit.SECONDS);
        String name = isSecure ? "HTTP/2 by ALPN" : "Upgrade of h2c passed over";
        System.out.println(problems.isEmpty() ? "ok " + name : "not ok " + name + ": " + problems);
        System.exit(0);
    }
}
