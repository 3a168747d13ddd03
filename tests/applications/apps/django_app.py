"""Django behind the sidecar, as docs/applications.md sets it up."""

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import JsonResponse
from django.urls import path

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    SECRET_KEY="a test",
    SECURE_PROXY_SSL_HEADER=("HTTP_X_FORWARDED_PROTO", "https"),
    USE_X_FORWARDED_HOST=True,
)


def whoami(request):
    # Django leaves the client's address to the project: here the sidecar's entry, and one proxy in front of it.
    client = request.headers["X-Forwarded-For"].split(", ")[-2:][0]
    return JsonResponse({"client": client, "scheme": request.scheme, "host": request.get_host()})


def length(request):
    return JsonResponse({"bytes": len(request.body)})


urlpatterns = [path("whoami", whoami), path("length", length)]
application = get_wsgi_application()
