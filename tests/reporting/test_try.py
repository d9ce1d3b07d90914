from tests.reporting.report_sources import sources, EVIL
from fisao_pipeline.reporting.report import report_page
def test_x():
    open("/tmp/toy.html","w").write(report_page(sources()))
    open("/tmp/evil.html","w").write(report_page(sources(EVIL)))
