package clients;

import java.util.HashMap;
import java.util.List;
import java.util.Map;
import javax.security.auth.callback.Callback;
import javax.security.auth.login.AppConfigurationEntry;
import org.apache.kafka.common.config.ConfigDef;
import org.apache.kafka.common.config.SaslConfigs;
import org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginCallbackHandler;
import org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule;
import org.apache.kafka.common.security.oauthbearer.OAuthBearerTokenCallback;

/** Fetches a token as Kafka's clients do before they connect to a broker: URL CLIENT SECRET [SCOPE] */
final class Kafka {
  public static void main(String[] args) throws Exception {
    System.setProperty("org.apache.kafka.sasl.oauthbearer.allowed.urls", args[0]);
    var options = new HashMap<String, Object>(Map.of("clientId", args[1], "clientSecret", args[2]));
    if (args.length > 3) {
      options.put("scope", args[3]);
    }
    var entry = new AppConfigurationEntry(
        OAuthBearerLoginModule.class.getName(), AppConfigurationEntry.LoginModuleControlFlag.REQUIRED, options);
    var definition = new ConfigDef();
    SaslConfigs.addClientSaslSupport(definition);
    var configs = definition.parse(Map.of(SaslConfigs.SASL_OAUTHBEARER_TOKEN_ENDPOINT_URL, args[0]));
    var handler = new OAuthBearerLoginCallbackHandler();
    handler.configure(configs, OAuthBearerLoginModule.OAUTHBEARER_MECHANISM, List.of(entry));
    var callback = new OAuthBearerTokenCallback();
    handler.handle(new Callback[] {callback});
    handler.close();
    if (callback.token() == null) {
      throw new IllegalStateException(callback.errorCode() + ": " + callback.errorDescription());
    }
    System.out.println(callback.token().value());
  }
}
