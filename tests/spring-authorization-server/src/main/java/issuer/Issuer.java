package issuer;

import static org.springframework.security.oauth2.core.ClientAuthenticationMethod.*;

import com.nimbusds.jose.jwk.JWKSet;
import com.nimbusds.jose.jwk.RSAKey;
import com.nimbusds.jose.jwk.source.JWKSource;
import com.nimbusds.jose.proc.SecurityContext;
import jakarta.annotation.PostConstruct;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyPairGenerator;
import java.security.interfaces.RSAPublicKey;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.catalina.connector.Connector;
import org.springframework.beans.factory.annotation.Value;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.boot.web.embedded.tomcat.TomcatServletWebServerFactory;
import org.springframework.boot.web.server.WebServerFactoryCustomizer;
import org.springframework.context.annotation.Bean;
import org.springframework.security.config.annotation.web.configuration.WebSecurityCustomizer;
import org.springframework.security.oauth2.core.AuthorizationGrantType;
import org.springframework.security.oauth2.core.ClientAuthenticationMethod;
import org.springframework.security.oauth2.jose.jws.MacAlgorithm;
import org.springframework.security.oauth2.jose.jws.SignatureAlgorithm;
import org.springframework.security.oauth2.server.authorization.client.RegisteredClient;
import org.springframework.security.oauth2.server.authorization.client.RegisteredClientRepository;
import org.springframework.security.oauth2.server.authorization.settings.ClientSettings;
import org.springframework.security.oauth2.server.authorization.settings.TokenSettings;
import org.springframework.web.bind.annotation.GetMapping;
import org.springframework.web.bind.annotation.PostMapping;
import org.springframework.web.bind.annotation.RequestParam;
import org.springframework.web.bind.annotation.RestController;

/**
 * Spring Authorization Server with a client for each method of authentication. The properties `server.port` (https), `http`
 * (the same over plain HTTP), `server.ssl.*`, secrets and `clients` (a file with public keys of clients) come as arguments.
 */
@SpringBootApplication
@RestController
public class Issuer {
    @Value("${http}") int http;
    @Value("${clients}") Path clients;
    @Value("${secret}") String secret;
    @Value("${long-secret}") String longSecret;
    @Value("${first-secret}") String firstSecret;
    private final Map<String, RegisteredClient> registered = new ConcurrentHashMap<>();
    private volatile JWKSet keys = key();

    public static void main(String[] arguments) {
        SpringApplication.run(Issuer.class, arguments);
    }

    private static JWKSet key() {
        try {
            var generator = KeyPairGenerator.getInstance("RSA");
            generator.initialize(2048);
            var pair = generator.generateKeyPair();
            var key = new RSAKey.Builder((RSAPublicKey) pair.getPublic()).privateKey(pair.getPrivate());
            return new JWKSet(key.keyID(UUID.randomUUID().toString()).build());
        } catch (Exception e) {
            throw new IllegalStateException(e);
        }
    }

    @Bean
    JWKSource<SecurityContext> signingKeys() {
        return (selector, context) -> selector.select(keys);
    }

    @Bean
    WebServerFactoryCustomizer<TomcatServletWebServerFactory> plainToo() {
        return factory -> {
            var connector = new Connector();
            connector.setPort(http);
            connector.setProperty("address", "127.0.0.1");
            factory.addAdditionalTomcatConnectors(connector);
        };
    }

    /** By their ids. The one that comes with Spring takes no two clients with the same secret. */
    @Bean
    RegisteredClientRepository clients() {
        return new RegisteredClientRepository() {
            @Override
            public void save(RegisteredClient client) {
                registered.put(client.getClientId(), client);
            }

            @Override
            public RegisteredClient findById(String id) {
                return registered.get(id);
            }

            @Override
            public RegisteredClient findByClientId(String id) {
                return registered.get(id);
            }
        };
    }

    @PostConstruct
    void register() {
        var jwks = "http://127.0.0.1:" + http + "/clients";
        var settings = ClientSettings.builder();
        for (var client : List.of(
            client("basic", "{noop}" + secret, 300, settings, CLIENT_SECRET_BASIC),
            client("odd:id", "{noop}" + secret, 300, settings, CLIENT_SECRET_BASIC),
            client("brief", "{noop}" + secret, 8, settings, CLIENT_SECRET_BASIC),
            client("plain", "{noop}" + firstSecret, 300, settings, CLIENT_SECRET_BASIC),
            client("rotated", "{noop}" + firstSecret, 300, settings, CLIENT_SECRET_BASIC),
            client("poster", "{noop}" + secret, 300, settings, CLIENT_SECRET_POST),
            client("hasher", longSecret, 300,
                ClientSettings.builder().tokenEndpointAuthenticationSigningAlgorithm(MacAlgorithm.HS256),
                CLIENT_SECRET_JWT),
            client("signer-RS256", null, 300,
                ClientSettings.builder().jwkSetUrl(jwks)
                    .tokenEndpointAuthenticationSigningAlgorithm(SignatureAlgorithm.RS256), PRIVATE_KEY_JWT),
            client("signer-ES256", null, 300,
                ClientSettings.builder().jwkSetUrl(jwks)
                    .tokenEndpointAuthenticationSigningAlgorithm(SignatureAlgorithm.ES256), PRIVATE_KEY_JWT),
            client("holder", null, 300,
                ClientSettings.builder().x509CertificateSubjectDN("CN=rcgen self signed cert"), TLS_CLIENT_AUTH),
            client("self-signed", null, 300, ClientSettings.builder().jwkSetUrl(jwks), SELF_SIGNED_TLS_CLIENT_AUTH))) {
            registered.put(client.getClientId(), client);
        }
    }

    private static RegisteredClient client(
            String id, String secret, int seconds, ClientSettings.Builder settings, ClientAuthenticationMethod method) {
        return RegisteredClient.withId(id)
            .clientId(id)
            .clientSecret(secret)
            .clientAuthenticationMethod(method)
            .authorizationGrantType(AuthorizationGrantType.CLIENT_CREDENTIALS)
            .scope("read")
            .clientSettings(settings.build())
            .tokenSettings(TokenSettings.builder().accessTokenTimeToLive(Duration.ofSeconds(seconds)).build())
            .build();
    }

    /** What the tests ask for beside the issuer's own endpoints. */
    @Bean
    WebSecurityCustomizer forTests() {
        return security -> security.ignoring().requestMatchers("/clients", "/rotate-secret", "/rotate-key");
    }

    @GetMapping("/clients")
    String publicKeys() throws Exception {
        return Files.readString(clients);
    }

    @PostMapping("/rotate-secret")
    void rotateSecret(@RequestParam("id") String id, @RequestParam("secret") String secret) {
        registered.put(id, RegisteredClient.from(registered.get(id)).clientSecret("{noop}" + secret).build());
    }

    @PostMapping("/rotate-key")
    void rotateKey() {
        keys = key();
    }
}
