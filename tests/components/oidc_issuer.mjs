// An issuer of tokens: `oidc_issuer.mjs DIRECTORY`, with oauth2-mock-server below DIRECTORY.
//
// Discovery, a key set and RS256 tokens. It says its URL on standard output, makes one more key at
// each line on standard input (keys sign by turns), and ends with that. A request chooses the claims:
// `username` is its `sub`, `audience` its `aud`, `expires_in` its life, `groups` a list.
import { webcrypto } from 'node:crypto';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

globalThis.crypto ??= webcrypto; // Debian 12's Node has it under this name only

const library = `${process.argv[2]}/node_modules/oauth2-mock-server/dist/index.mjs`;
const { OAuth2Server } = await import(pathToFileURL(library));

const server = new OAuth2Server();
await server.issuer.keys.generate('RS256');
await server.start(0, '127.0.0.1');
server.issuer.url = `http://127.0.0.1:${server.address().port}`;

server.service.on('beforeTokenSigning', (token, request) => {
  const asked = request.body ?? {};
  token.payload.sub = asked.username ?? asked.client_id ?? 'nobody';
  token.payload.aud = asked.audience ?? 'tes';
  if (asked.expires_in) token.payload.exp = token.payload.iat + Number(asked.expires_in);
  if (asked.groups) token.payload.groups = asked.groups.split(',');
});
console.log(server.issuer.url);

for await (const line of createInterface({ input: process.stdin })) {
  await server.issuer.keys.generate('RS256');
  console.log(line);
}
await server.stop();
