"""`python -m tesp_api` is `tesp-api`."""

from tesp_api.cli import main

main()
