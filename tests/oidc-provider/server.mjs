// A certified OpenID provider for the tests: prints where it listens as one line of JSON, and ends when stdin ends, so
// that it never outlives the test that started it.
//
// Its one argument is JSON, every member optional:
//   clients, scopes, ttl          as the provider's own configuration has them; clients may have a `jwks`
//   resources: { URI: { scope, ttl } }
//   tls: { key, cert }            serves https
//   mtls: { key, cert, ca }       a second address, named in mtls_endpoint_aliases, that asks for client certificates
//   dpop: true                    DPoP, with nonces that every proof must carry
//   routes: { token: PATH }       paths of endpoints, for the shape of another vendor's
//   resource: URI                 of tokens that are asked for without one
//   anyResource: true             every URI is a resource
//   trusts: ISSUER                 the grant jwt-bearer (RFC 7523), with JWTs of that issuer that name this one as their audience
import { X509Certificate } from 'node:crypto';
import http from 'node:http';
import https from 'node:https';
import { createRemoteJWKSet, jwtVerify } from 'jose';
import Provider, { errors } from 'oidc-provider';

const options = JSON.parse(process.argv[2] ?? '{}');
const { tls, mtls, ttl = 600, scopes = [], resources = {}, routes = {}, resource } = options;

const clients = (options.clients ?? []).map((client) => ({
  grant_types: ['client_credentials'],
  response_types: [],
  redirect_uris: [],
  ...client,
}));

const algs = [
  ...['HS', 'RS', 'PS', 'ES'].flatMap((kind) => [256, 384, 512].map((bits) => `${kind}${bits}`)),
  'EdDSA',
  'Ed25519',
];

const listen = (server) => new Promise((done) => server.listen(0, '127.0.0.1', () => done(server.address().port)));

const peer = (ctx) => {
  const { raw } = ctx.socket.getPeerCertificate?.() ?? {};
  return raw && new X509Certificate(raw);
};

const server = tls ? https.createServer(tls) : http.createServer();
const issuer = `${tls ? 'https' : 'http'}://localhost:${await listen(server)}`;
// Whether a certificate is good is for the provider to say, by the way that the client is registered.
const asking = mtls && https.createServer({ ...mtls, requestCert: true, rejectUnauthorized: false });
const alias = asking && `https://localhost:${await listen(asking)}`;

const provider = new Provider(issuer, {
  clients,
  scopes,
  routes,
  clientAuthMethods: [
    'none',
    'client_secret_basic',
    'client_secret_post',
    'client_secret_jwt',
    'private_key_jwt',
    ...(mtls ? ['tls_client_auth', 'self_signed_tls_client_auth'] : []),
  ],
  enabledJWA: { clientAuthSigningAlgValues: algs, dPoPSigningAlgValues: algs.filter((alg) => !alg.startsWith('HS')) },
  ...(alias && { discovery: { mtls_endpoint_aliases: { token_endpoint: `${alias}/token` } } }),
  features: {
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
    devInteractions: { enabled: false },
    dPoP: options.dpop
      ? { enabled: true, nonceSecret: Buffer.alloc(32, 7), requireNonce: () => true }
      : { enabled: false },
    mTLS: mtls
      ? {
          enabled: true,
          tlsClientAuth: true,
          selfSignedTlsClientAuth: true,
          certificateBoundAccessTokens: true,
          getCertificate: (ctx) => peer(ctx)?.toString(),
          certificateAuthorized: (ctx) => ctx.socket.authorized,
          certificateSubjectMatches: (ctx, property, expected) =>
            property === 'tls_client_auth_san_dns' && peer(ctx).subjectAltName === `DNS:${expected}`,
        }
      : { enabled: false },
    resourceIndicators: {
      enabled: true,
      ...(resource && { defaultResource: () => resource }),
      getResourceServerInfo(ctx, resource) {
        const found = resources[resource] ?? (options.anyResource && { scope: '' });
        if (!found) throw new errors.InvalidTarget();
        return { scope: found.scope, audience: resource, accessTokenTTL: found.ttl ?? ttl, accessTokenFormat: 'jwt' };
      },
    },
  },
  ttl: { ClientCredentials: ttl },
});
if (options.trusts) {
  const keys = createRemoteJWKSet(new URL(`${options.trusts}/jwks`));
  const grant = async (ctx) => {
    const { client, params } = ctx.oidc;
    const expected = { issuer: options.trusts, audience: issuer };
    await jwtVerify(params.assertion ?? '', keys, expected).catch((error) => {
      throw new errors.InvalidGrant(error.message);
    });
    const token = new provider.ClientCredentials({ client, scope: params.scope });
    const access_token = await token.save();
    ctx.body = { access_token, expires_in: token.expiration, token_type: 'Bearer', scope: params.scope };
  };
  provider.registerGrantType('urn:ietf:params:oauth:grant-type:jwt-bearer', grant, ['assertion', 'scope']);
}
for (const one of [server, asking]) one?.on('request', provider.callback());
console.log(JSON.stringify({ issuer, alias }));

process.stdin.resume();
process.stdin.on('end', () => process.exit(0));
process.stdin.on('close', () => process.exit(0));
