"""Issuers and authorization servers, asked by this process alone: keys, tokens, logins."""
