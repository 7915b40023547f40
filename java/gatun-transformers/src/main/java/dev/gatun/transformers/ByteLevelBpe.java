package dev.gatun.transformers;

import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.OptionalInt;

/**
 * Byte-level byte-pair encoding (GPT-2; Radford et al. 2019, section 2.2): text is cut into words,
 * the UTF-8 bytes of each word are the first tokens, and neighbours are merged in the order in
 * which training found the merges. Any text can be encoded, and decodes to itself.
 *
 * <p>Encoding takes time n·log n in the longest word and constant stack, whatever the text. Ids,
 * also for odd vocabularies, are those of the {@code tokenizers} library: a byte without a token
 * becomes the unknown token, or where there is none disappears (no vocabulary that {@link
 * BpeTrainer} makes has such a byte).
 */
public final class ByteLevelBpe implements Tokenizer {

    static final String END_OF_TEXT = "<|endoftext|>";

    /** A merge by ids, in order of rank. */
    record Merge(int left, int right, int merged) {}

    /**
     * How a text becomes pieces, and a piece ids.
     *
     * @param prefixSpace a text that starts with no space gets one
     * @param words whether text is cut by GPT-2's pattern; if not, merges reach across words
     * @param wholePieces a piece that is a token is not merged but taken
     * @param unknown the id for a byte without a token, or -1
     * @param fuseUnknown neighbouring unknown bytes become one id
     */
    record Options(
            boolean prefixSpace,
            boolean words,
            boolean wholePieces,
            int unknown,
            boolean fuseUnknown) {

        static final Options GPT2 = new Options(false, true, false, -1, false);
    }

    private final Vocabulary vocabulary;
    private final List<Merge> merges;
    private final AddedTokens added;
    private final Options options;
    private final int[] prefix;
    private final int[] suffix;
    private final TokenizerJson.Envelope envelope;

    private final MergeTable table;
    private final byte[][] bytes; // by id, empty in gaps
    private final int[] byteIds = new int[256]; // -1 where a byte has no token
    private final PieceCache cache = new PieceCache();

    /**
     * @param prefix ids that {@link #encodeWithSpecial} puts before a text
     * @param suffix ids that it puts after a text
     * @param envelope what tokenizer.json holds besides, for {@link #save}
     */
    ByteLevelBpe(
            Vocabulary vocabulary,
            List<Merge> merges,
            List<AddedToken> added,
            Options options,
            int[] prefix,
            int[] suffix,
            TokenizerJson.Envelope envelope) {
        this.vocabulary = vocabulary;
        this.merges = List.copyOf(merges);
        this.added = new AddedTokens(added);
        this.options = options;
        this.prefix = prefix;
        this.suffix = suffix;
        this.envelope = envelope;

        table = new MergeTable(merges.size());
        for (int rank = 0; rank < merges.size(); rank++) {
            Merge merge = merges.get(rank);
            table.put(merge.left, merge.right, rank, merge.merged);
        }
        bytes = new byte[vocabulary.size()][];
        for (int id = 0; id < bytes.length; id++) {
            String token = vocabulary.find(id);
            bytes[id] = token == null ? new byte[0] : ByteAlphabet.bytes(token);
        }
        for (int b = 0; b < 256; b++) {
            String spelling = String.valueOf(ByteAlphabet.spelling(b));
            byteIds[b] = vocabulary.idOf(spelling).orElse(-1);
        }
    }

    @Override
    public int[] encode(String text) {
        Ids ids = new Ids(text.length() / 3 + 8);
        encode(text, false, ids);
        return ids.toArray();
    }

    @Override
    public int[] encodeWithSpecial(String text) {
        Ids ids = new Ids(text.length() / 3 + 8);
        ids.addAll(prefix);
        encode(text, true, ids);
        ids.addAll(suffix);
        return ids.toArray();
    }

    private void encode(String text, boolean special, Ids ids) {
        byte[] utf8 = Utf8.bytes(text);
        added.cut(
                utf8,
                special,
                new AddedTokens.Sink() {
                    @Override
                    public void text(int from, int to) {
                        encodeText(utf8, from, to, ids);
                    }

                    @Override
                    public void token(int id) {
                        ids.add(id);
                    }
                });
    }

    private void encodeText(byte[] utf8, int from, int to, Ids ids) {
        if (options.prefixSpace && utf8[from] != ' ') {
            byte[] spaced = new byte[to - from + 1];
            spaced[0] = ' ';
            System.arraycopy(utf8, from, spaced, 1, to - from);
            encodePieces(spaced, 0, spaced.length, ids);
        } else {
            encodePieces(utf8, from, to, ids);
        }
    }

    private void encodePieces(byte[] text, int from, int to, Ids ids) {
        int at = from;
        while (at < to) {
            int end = options.words ? Gpt2Pieces.end(text, at, to) : to;
            encodePiece(text, at, end, ids);
            at = end;
        }
    }

    private void encodePiece(byte[] text, int from, int to, Ids ids) {
        if (to - from == 1 && byteIds[text[from] & 0xFF] >= 0) {
            ids.add(byteIds[text[from] & 0xFF]);
        } else if (to - from > PieceCache.LONGEST_PIECE) {
            ids.addAll(merge(text, from, to));
        } else {
            int hash = PieceCache.hash(text, from, to);
            int[] known = cache.find(text, from, to, hash);
            if (known == null) {
                known = merge(text, from, to);
                cache.put(text, from, to, hash, known);
            }
            ids.addAll(known);
        }
    }

    private int[] merge(byte[] text, int from, int to) {
        if (options.wholePieces) {
            StringBuilder spelling = new StringBuilder(to - from);
            for (int i = from; i < to; i++) {
                spelling.append(ByteAlphabet.spelling(text[i] & 0xFF));
            }
            OptionalInt whole = vocabulary.idOf(spelling.toString());
            if (whole.isPresent()) {
                return new int[] {whole.getAsInt()};
            }
        }
        int[] piece = new int[to - from];
        int count = 0;
        boolean unknownBefore = false;
        for (int i = from; i < to; i++) {
            int id = byteIds[text[i] & 0xFF];
            if (id >= 0) {
                piece[count++] = id;
            } else if (options.unknown >= 0 && !(options.fuseUnknown && unknownBefore)) {
                piece[count++] = options.unknown;
            }
            unknownBefore = id < 0;
        }
        return Arrays.copyOf(piece, table.apply(piece, count));
    }

    @Override
    public String decode(int[] ids, boolean skipSpecial) {
        TokenStream stream = new TokenStream(this, skipSpecial);
        StringBuilder text = new StringBuilder(4 * ids.length);
        for (int id : ids) {
            stream.accept(id, text);
        }
        stream.flush(text);
        return text.toString();
    }

    @Override
    public int vocabSize() {
        return vocabulary.size();
    }

    @Override
    public OptionalInt idOf(String token) {
        return vocabulary.idOf(token);
    }

    @Override
    public String token(int id) {
        return vocabulary.token(id);
    }

    @Override
    public byte[] bytes(int id) {
        return sharedBytes(id).clone();
    }

    /** {@link #bytes} without the copy; not to be written to. */
    byte[] sharedBytes(int id) {
        vocabulary.token(id);
        return bytes[id];
    }

    @Override
    public boolean isSpecial(int id) {
        return vocabulary.isSpecial(id);
    }

    @Override
    public OptionalInt endOfText() {
        OptionalInt id = vocabulary.idOf(END_OF_TEXT);
        return id.isPresent() && isSpecial(id.getAsInt()) ? id : OptionalInt.empty();
    }

    @Override
    public void save(Path tokenizerJson) {
        TokenizerJson.save(this, tokenizerJson);
    }

    Vocabulary vocabulary() {
        return vocabulary;
    }

    List<Merge> merges() {
        return merges;
    }

    List<AddedToken> addedTokens() {
        return added.tokens();
    }

    TokenizerJson.Envelope envelope() {
        return envelope;
    }

    @Override
    public String toString() {
        return "byte-level BPE, %d tokens, %d merges".formatted(vocabSize(), merges.size());
    }

    /** A growing list of ids. */
    private static final class Ids {

        private int[] ids;
        private int size;

        Ids(int capacity) {
            ids = new int[capacity];
        }

        void add(int id) {
            if (size == ids.length) {
                ids = Arrays.copyOf(ids, size + (size >> 1) + 1);
            }
            ids[size++] = id;
        }

        void addAll(int[] more) {
            if (ids.length - size < more.length) {
                ids = Arrays.copyOf(ids, Math.max(size + more.length, size + (size >> 1)));
            }
            System.arraycopy(more, 0, ids, size, more.length);
            size += more.length;
        }

        int[] toArray() {
            return Arrays.copyOf(ids, size);
        }
    }
}
