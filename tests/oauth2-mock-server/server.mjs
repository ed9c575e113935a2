// oauth2-mock-server at the port of its first argument, with tokens that are valid for as many seconds as the second says.
import { OAuth2Server } from 'oauth2-mock-server';

const [port, ttl] = process.argv.slice(2).map(Number);
const server = new OAuth2Server();
await server.issuer.keys.generate('RS256');
server.service.on('beforeTokenSigning', ({ payload }) => {
  payload.exp = payload.iat + ttl;
});
server.service.on('beforeResponse', ({ body }) => {
  body.expires_in = ttl;
});
await server.start(port, '127.0.0.1');
