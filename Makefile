.PHONY: help demo test sqlx
help:
	@echo 'make demo   serve sample data on 127.0.0.1:8080, and print the calls of one whole export'
	@echo 'make test   run all tests'
	@echo 'make sqlx   renew the checked query metadata after a change to a query or a migration'

demo:
	@script/install-postgresql
	cargo run --release -- demo

test:
	@script/install-postgresql
	cargo test --locked

sqlx:
	@script/install-postgresql
	.ci/sqlx
