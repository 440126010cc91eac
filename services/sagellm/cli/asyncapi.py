"""`sagellm asyncapi`."""

import typer


def asyncapi() -> None:
    """Print the AsyncAPI 3 document of every NATS subject and message, as JSON."""
    import msgspec

    from sagellm_schemas.asyncapi import document

    typer.echo(msgspec.json.format(msgspec.json.encode(document()), indent=2).decode())
