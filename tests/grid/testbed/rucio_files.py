"""Configuration of the Rucio server, of gunicorn before it, and of Rucio's clients."""

ENDPOINTS = """accounts auth config credentials dids identities locks meta_conventions ping replicas requests
rses rules scopes subscriptions traces"""
PLAIN = "gunicorn.py"
TLS = "gunicorn_tls.py"

# ``multi_vo`` must be absent (any text counts as true); both trace sections are obligatory.
SERVER = """[common]
logdir = {here}/log
loglevel = INFO
mailtemplatedir = {here}/etc/mail_templates

[database]
default = {database}
schema = rucio
echo = False
pool_size = 10
max_overflow = 10

[alembic]
cfg = {here}/etc/alembic.ini

[bootstrap]
userpass_identity = ddmlab
userpass_pwd = secret
userpass_email = root@localhost
x509_identity = {dn}
x509_email = root@localhost

[trace]
tracedir = {here}/log
brokers = 127.0.0.1
port = {stomp}
topic = /topic/rucio.tracer
username =
password =

[nongrid-trace]
tracedir = {here}/log
brokers = 127.0.0.1
port = {stomp}
topic = /topic/rucio.tracer

[policy]
permission = generic
schema = generic
lfn2pfn_algorithm_default = hash
support = none
support_rucio = none

[api]
endpoints = {endpoints}
"""

ALEMBIC = """[alembic]
script_location = {packages}/rucio/db/sqla/migrate_repo
sqlalchemy.url = {database}
version_table_schema = rucio
[loggers]
keys = root
[handlers]
keys = console
[formatters]
keys = generic
[logger_root]
level = WARN
handlers = console
[handler_console]
class = StreamHandler
args = (sys.stderr,)
level = NOTSET
formatter = generic
[formatter_generic]
format = %%(levelname)s %%(message)s
"""

GUNICORN = """accesslog = '{here}/log/{name}-access.log'
errorlog = '{here}/log/{name}-error.log'
"""

# 0x40 is X509_V_FLAG_ALLOW_PROXY_CERTS: OpenSSL refuses every proxy without it.
GUNICORN_TLS = """import ssl

certfile = '{pki.host_cert}'
keyfile = '{pki.host_key}'
ca_certs = '{pki.ca}'
cert_reqs = ssl.CERT_OPTIONAL


def ssl_context(conf, default_ssl_context_factory):
    context = default_ssl_context_factory()
    context.verify_flags |= 0x40
    return context
"""

# protocol_stat_retries: the client's default is six tries with doubling pauses, 63 s.
CLIENT = """[client]
rucio_host = {url}
auth_host = {url}
account = {account}
request_retries = 1
protocol_stat_retries = 1
auth_token_file_path = {home}/token
{login}
[policy]
permission = generic
schema = generic
lfn2pfn_algorithm_default = hash
support = none
support_rucio = none
"""

PASSWORD = """auth_type = userpass
username = {user}
password = {password}
"""

PROXY = """auth_type = x509_proxy
client_x509_proxy = {pki.proxy}
ca_cert = {pki.ca}
"""
