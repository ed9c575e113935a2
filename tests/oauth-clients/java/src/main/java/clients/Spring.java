package clients;

import java.time.Duration;
import java.time.Instant;
import java.util.Arrays;
import org.springframework.security.oauth2.client.endpoint.OAuth2ClientCredentialsGrantRequest;
import org.springframework.security.oauth2.client.endpoint.RestClientClientCredentialsTokenResponseClient;
import org.springframework.security.oauth2.client.registration.ClientRegistration;
import org.springframework.security.oauth2.core.AuthorizationGrantType;

/** Fetches a token as Spring's OAuth client does: URL CLIENT SECRET [SCOPE ...] */
final class Spring {
  public static void main(String[] args) {
    var registration = ClientRegistration.withRegistrationId("bearerd")
        .authorizationGrantType(AuthorizationGrantType.CLIENT_CREDENTIALS)
        .tokenUri(args[0])
        .clientId(args[1])
        .clientSecret(args[2])
        .scope(Arrays.copyOfRange(args, 3, args.length))
        .build();
    var response = new RestClientClientCredentialsTokenResponseClient()
        .getTokenResponse(new OAuth2ClientCredentialsGrantRequest(registration));
    var token = response.getAccessToken();
    var left = Duration.between(Instant.now(), token.getExpiresAt()).toSeconds();
    System.out.println(token.getTokenValue() + " " + token.getTokenType().getValue() + " " + left);
  }
}
