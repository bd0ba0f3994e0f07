"""At home in other people's pipelines."""
