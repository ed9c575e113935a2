// A certified OpenID provider for the tests: prints its issuer URL as one line of JSON, and ends when stdin ends, so
// that it never outlives the test that started it.
//
// Its one argument is JSON: { clients: [...], scopes: [...], resources: { URI: { scope, ttl } }, ttl, tls: { key, cert } }.
import http from 'node:http';
import https from 'node:https';
import Provider, { errors } from 'oidc-provider';

const options = JSON.parse(process.argv[2] ?? '{}');
const { tls, ttl = 600, scopes = [], resources = {} } = options;

const clients = (options.clients ?? []).map((client) => ({
  grant_types: ['client_credentials'],
  response_types: [],
  redirect_uris: [],
  ...client,
}));

const server = tls ? https.createServer(tls) : http.createServer();
server.listen(0, '127.0.0.1', () => {
  const { port } = server.address();
  const issuer = `${tls ? 'https' : 'http'}://localhost:${port}`;
  const provider = new Provider(issuer, {
    clients,
    scopes,
    features: {
      clientCredentials: { enabled: true },
      introspection: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        getResourceServerInfo(ctx, resource) {
          const found = resources[resource];
          if (!found) throw new errors.InvalidTarget();
          return { scope: found.scope, audience: resource, accessTokenTTL: found.ttl ?? ttl, accessTokenFormat: 'jwt' };
        },
      },
    },
    ttl: { ClientCredentials: ttl },
  });
  server.on('request', provider.callback());
  console.log(JSON.stringify({ issuer }));
});

process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
process.stdin.on('close', () => process.exit(0));
