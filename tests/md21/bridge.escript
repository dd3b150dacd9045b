%% Erlang's own ASN.1 compiler as a codec: compiles the module of argument 1 in the folder of argument 2, then answers
%% each term on standard input with a line. {encode, Value} with the PDU in hex; {decode, Value, Pdu} with "same" where
%% the PDU is that value, else with what it is.

-mode(compile).

main([Source, Folder]) ->
    ok = asn1ct:compile(Source, [uper, maps, {outdir, Folder}]),
    true = code:add_patha(Folder),
    {module, _} = code:load_file(md21()),
    io:put_chars("ready\n"),
    loop().

md21() -> 'MD21'.

loop() ->
    case io:read("") of
        eof -> ok;
        {ok, Request} ->
            io:put_chars([answer(Request), "\n"]),
            loop()
    end.

answer({encode, Value}) ->
    case (md21()):encode('MD-Data', Value) of
        {ok, Pdu} -> binary:encode_hex(Pdu);
        {error, Reason} -> line(Reason)
    end;
answer({decode, Value, Pdu}) ->
    case (md21()):decode('MD-Data', Pdu) of
        {ok, Value} -> "same";
        Other -> line(Other)
    end.

line(Term) -> io_lib:format("~0p", [Term]).
