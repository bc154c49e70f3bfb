"""Where Python begins in the zip that the server sends."""

from tesp_api.runner.main import main

main()
