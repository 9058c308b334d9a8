-- SMART Backend Services: the server's own tokens.

-- Client assertions that were used: one that comes again is refused by every replica (rule I11).
create table spent_assertion (
    client_id text collate "C" not null,
    -- SHA-256 of the assertion's jti, which may be long, and of any characters.
    jti bytea not null,
    -- When it is refused for its age alone. The reaper removes the row some time later.
    expires_at timestamptz not null,
    primary key (client_id, jti)
);
create index spent_assertion_expires_at on spent_assertion (expires_at);

-- The keys with which access tokens are signed: one after the other, without a gap. Each is there before its turn, so that
-- all know it by then, and stays until the last token that it has signed is over.
create table signing_key (
    kid text collate "C" primary key,
    -- The public half, as it is published: a JSON Web Key.
    jwk text not null,
    -- PKCS #8. A secret: whoever has it can make any token.
    private_key bytea not null,
    signs_from timestamptz not null,
    signs_until timestamptz not null
);
