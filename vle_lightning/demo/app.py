"""The page: a tab for each use of the models, and the server that shows it."""

from __future__ import annotations

import gradio as gr
from starlette.middleware import Middleware

from vle_lightning.demo import ask, compare, fill, find, match, reason, search
from vle_lightning.demo.guard import NoFetching
from vle_lightning.demo.page import Desk
from vle_lightning.demo.place import Place

TABS = {
    "Ask": ask.build,
    "Find": find.build,
    "Match": match.build,
    "Fill in": fill.build,
    "Reason": reason.build,
    "Search": search.build,
    "Compare": compare.build,
}
KEPT = 6 * 3600  # seconds that uploads and drawings are kept
CSS = """
.told { min-height: 1.5em; font-size: var(--text-md); padding: 0 .25em; }
.given img { width: 100%; height: 100%; object-fit: contain; image-rendering: pixelated; }
.hint { font-size: var(--text-sm); color: var(--body-text-color-subdued); padding: 0 .25em; }
.missing { padding: 1.5em; font-size: var(--text-lg); }
"""


def build_app(desk: Desk) -> gr.Blocks:
    """Lay out the page."""
    app = gr.Blocks(title="VLE-Lightning", analytics_enabled=False, delete_cache=(KEPT // 6, KEPT))
    with app:
        models = ", ".join(f"`{name}` ({model.device})" for name, model in desk.models.by_name.items())
        gr.Markdown(f"# VLE-Lightning\nVision-language models at work: {models}")
        for name, build in TABS.items():
            with gr.Tab(name):
                build(desk)
    app.queue(max_size=desk.limits.waiting, default_concurrency_limit=desk.limits.together)
    return app


def serve(app: gr.Blocks, desk: Desk, place: Place, wait: bool = True) -> str:
    """Serve the page, until Ctrl-C with ``wait``; returns its address.

    Raises:
        UserError: the address or the port cannot be used.
    """
    fonts = ["system-ui", "sans-serif"]  # the theme's own would be fetched from Google
    try:
        _, local, public = app.launch(
            server_name=place.host,
            server_port=place.port or None,
            share=place.share,
            max_file_size=desk.limits.upload_megabytes * 10**6,
            allowed_paths=[str(desk.examples.world.absolute() / "raw")],  # the examples' pictures
            max_threads=4 * desk.limits.together,
            theme=gr.themes.Default(font=fonts, font_mono=["ui-monospace", "monospace"]),
            css=CSS,
            footer_links=["api"],
            ssr_mode=False,
            app_kwargs={"middleware": [Middleware(NoFetching)]},
            enable_monitoring=False,
            run_history=False,  # visitors could let this machine write to a hub
            pwa=False,
            mcp_server=False,
            prevent_thread_lock=True,
            quiet=True,  # Gradio's own lines advise to share the page
        )
    except OSError as error:
        raise place.refuse(error) from error
    link = f", for everyone at {public} as well" if public else ""
    print(f"The demo is at {local}{link}. Ctrl-C ends it.", flush=True)
    if wait:
        app.block_thread()
    return str(local)
